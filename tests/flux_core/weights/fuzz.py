"""Mutated weights files, by the hundred thousand: each is read soundly or refused by one typed error.

`python -m tests.flux_core.weights.fuzz --cases 100000` runs as many as you like, in child processes with
little memory to spare, so that a crash or an allocation beyond the file's size cannot hide. The suite
runs a small number with the same code. A case is its number: `--first 1234 --cases 1` repeats it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from flux_core.errors import Corrupt, ModelMissing
from flux_core.weights.open import open_source
from flux_core.weights.quant.schemes import SCHEMES
from flux_core.weights.tensors import BITS_OF_DTYPE, RawTensor, TensorSource
from tests.flux_core.weights.mutations import KINDS, Files

ROOM_BYTES = 2**16
"""Python's own objects around any file, however small."""
ADDRESS_SPACE_BYTES = 2**30
"""What a child may map beyond what it has when it starts."""
SECONDS_PER_CASE = 0.1


@dataclass
class Tally:
    """What came of many cases.

    Attributes:
        outcomes: "<kind>: read" or "<kind>: refused" -> how often.
        reasons: First words of the refusals of each kind -> how often.
        worst_ratio: The largest allocation beyond ROOM_BYTES, in sizes of its file.
        failures: Case and what went wrong.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    worst_ratio: float = 0.0
    failures: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.outcomes += other.outcomes
        self.reasons += other.reasons
        self.worst_ratio = max(self.worst_ratio, other.worst_ratio)
        self.failures += other.failures


def run(first: int, cases: int, processes: int = 1) -> Tally:
    """Runs cases in child processes and gathers what came of them."""
    bounds = [first + cases * i // processes for i in range(processes + 1)]
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_fast_folder()) as base:
        children = []
        for number, (begin, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
            folder = Path(base) / str(number)
            folder.mkdir()
            command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, "--child", str(folder)]
            command += ["--first", str(begin), "--cases", str(end - begin)]
            children.append(
                (subprocess.Popen(command, stdout=subprocess.PIPE, text=True), folder, end - begin)
            )
        for process, folder, count in children:
            tally.add(_result(process, folder, count))
    return tally


def _result(process: subprocess.Popen[str], folder: Path, count: int) -> Tally:
    try:
        output, _ = process.communicate(timeout=60 + SECONDS_PER_CASE * count)
        if process.returncode == 0:
            found = json.loads(output)
            return Tally(
                Counter(found["outcomes"]), Counter(found["reasons"]), found["worst_ratio"], found["failures"]
            )
        fault = f"the process ended with {process.returncode}"
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        fault = "it did not end"
    return Tally(failures=[f"case {(folder / 'at').read_text()}: {fault}"])


def child(folder: Path, first: int, cases: int) -> Tally:
    """Runs cases in this process, with its memory limited from here on."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if Path("/proc/self/statm").exists():
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE_BYTES,) * 2)
    tally = Tally()
    tracemalloc.start()
    with (folder / "at").open("wb", buffering=0) as at:
        for case in range(first, first + cases):
            os.pwrite(at.fileno(), b"%12d" % case, 0)
            run_case(case, folder, tally)
    tracemalloc.stop()
    return tally


def run_case(case: int, folder: Path, tally: Tally) -> None:
    """Writes one mutated set of files, opens it and judges what happens."""
    random = Random(case)
    kind = random.choice(list(KINDS))
    files = KINDS[kind](random)
    size = _write(files, folder)
    path = folder / next(iter(files))
    outcome, fault, allocated = _judged(path)
    if allocated > 4 * size + ROOM_BYTES:
        # Once more: Python builds its table of interned strings anew every ten thousand cases or so.
        outcome, fault, allocated = _judged(path)
    if allocated > 4 * size + ROOM_BYTES:
        fault = fault or f"{allocated} bytes allocated for {size} bytes of files"
    tally.worst_ratio = max(tally.worst_ratio, (allocated - ROOM_BYTES) / max(size, 1))
    tally.outcomes[f"{kind}: {'refused' if outcome else 'read'}"] += 1
    if outcome:
        tally.reasons[f"{kind}: {outcome}"] += 1
    if fault:
        tally.failures.append(f"case {case} ({kind}): {fault}"[:500])
    for name in files:
        (folder / name).unlink()


def _judged(path: Path) -> tuple[str, str, int]:
    """(why it was refused, what is wrong with that, bytes allocated at most)."""
    outcome = fault = ""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        fault = _unsound(open_source(path))
    except (Corrupt, ModelMissing) as err:
        fault = _unclear(err)
        outcome = _gist(err.message)
    except Exception as err:
        outcome = fault = f"{type(err).__name__}: {err}"
    return outcome, fault, tracemalloc.get_traced_memory()[1] - before


def _write(files: Files, folder: Path) -> int:
    for name, content in files.items():
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(descriptor, content)
        os.close(descriptor)
    return sum(map(len, files.values()))


def _unsound(source: TensorSource) -> str:
    """What is wrong with a source that was given out; empty if nothing is."""
    for name, info in source.names().items():
        raw = source.read(name)
        if (raw.dtype, raw.shape) != (info.dtype, info.shape):
            return f"{name!r} is {raw.dtype} {raw.shape} and was announced as {info}"
        if raw.data.size != _expected_bytes(raw):
            return f"{name!r} of {raw.dtype} {raw.shape} has {raw.data.size} bytes"
        raw.data[-1:].sum()  # a view beyond the end of the file would crash here
    return ""


def _expected_bytes(raw: RawTensor) -> int:
    columns = 1
    for dim in raw.shape[1:]:
        columns *= dim
    if raw.dtype in SCHEMES:
        return raw.num_rows * SCHEMES[raw.dtype].row_bytes(columns)
    if raw.dtype in BITS_OF_DTYPE:
        return raw.num_rows * columns * BITS_OF_DTYPE[raw.dtype] // 8
    return raw.data.size  # a type whose scheme is not known here; the reader has checked it


def _unclear(err: Corrupt | ModelMissing) -> str:
    is_clear = err.message.endswith(".") and len(err.message) < 1000 and err.message.isprintable()
    return "" if is_clear and err.hint else f"an unclear error: {err.message!r}"


def _gist(message: str) -> str:
    """The reason without the path and what is quoted from the file, for the statistics."""
    reason = message.rpartition(": ")[2] if ": " in message else message
    return "".join(char for char in reason if not char.isdigit())[:28]


def _fast_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the readers of weights.")
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        json.dump(vars(child(options.child, options.first, options.cases)), sys.stdout)
        return
    started = time.monotonic()
    tally = run(options.first, options.cases, options.processes)
    for outcome, count in sorted(tally.outcomes.items()):
        sys.stdout.write(f"{count:>9,}  {outcome}\n")
    sys.stdout.write(
        f"{len(tally.reasons):,} different reasons; at most {max(tally.worst_ratio, 0):.2f} file sizes "
        f"allocated; {time.monotonic() - started:.0f} s\n"
    )
    for failure in tally.failures[:20]:
        sys.stdout.write(f"FAILED {failure}\n")
    sys.exit(bool(tally.failures) or sum(tally.outcomes.values()) != options.cases)


if __name__ == "__main__":
    main()
