"""A training in a process of its own: a request comes on stdin's first line, reports go to stdout.

Whoever closes stdin stops the training, which saves and ends; so it ends with who started it, too. Everything
that can be wrong with a request is found before torch is imported, let alone a weight loaded.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from backends.torch_cuda.training.lora.base import Base, find_base
from backends.torch_cuda.training.lora.pictures import Example, read_folder, stamp_of
from backends.torch_cuda.training.lora.places import Places
from flux_core.errors import Cancelled, FluxError, Internal, OutOfMemory, RequestInvalid
from flux_core.lora_training import Advance, Ended, LoraTraining, Note, Wrote, parse_training
from flux_core.messages import Failed


@dataclass(frozen=True, slots=True)
class Prepared:
    """A training that can begin: with nothing left open, its model, its pictures."""

    training: LoraTraining
    base: Base
    examples: tuple[Example, ...]


class Trainer:
    """Carries one training out for whoever holds the other ends of two pipes."""

    def __init__(self, orders: IO[bytes], reports: IO[bytes]) -> None:
        self._orders = orders
        self._reports = reports
        self._stopped = threading.Event()

    def serve(self, models_dirs: tuple[Path, ...], places: Places) -> int:
        """Reads the request and carries it out; returns the exit code of the process."""
        line = self._orders.readline()
        threading.Thread(target=self._wait_for_the_end, name="orders", daemon=True).start()
        try:
            prepared = prepare(parse_training(line, "the request"), models_dirs, places, self._advance)
            for note in prepared.base.notes:
                self.say(Note(text=note))
            self.say(self._train(prepared, places))
        except Exception as err:  # the edge of the process: every failure must be said
            self.say(Failed.of(_as_flux_error(err)))
            return 1
        return 0

    def say(self, message: Advance | Wrote | Note | Ended | Failed) -> None:
        """Writes one line; there is nobody to tell that nobody reads."""
        try:
            self._reports.write(message.model_dump_json(exclude_none=True).encode() + b"\n")
            self._reports.flush()
        except OSError:
            self._stopped.set()

    def _advance(self, stage: str, done: int, total: int) -> None:
        if self._stopped.is_set():
            raise Cancelled("The training was stopped before it began.")
        self.say(Advance(stage=stage, done=done, total=total))

    def _wait_for_the_end(self) -> None:
        self._orders.read()
        self._stopped.set()

    def _train(self, prepared: Prepared, places: Places) -> Ended:
        from backends.torch_cuda.training.lora.device import carry_out

        return carry_out(
            prepared.training, prepared.base, prepared.examples, places, self.say, self._stopped.is_set
        )


def prepare(
    asked: LoraTraining,
    models_dirs: tuple[Path, ...],
    places: Places,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Prepared:
    """Checks everything and fills in what is left open; loads nothing.

    Raises:
        RequestInvalid: The name is taken, the model is none to train on, something is wrong with the
            pictures, or a training that goes on would not be the one that began.
        ModelMissing: The model is not here.
        Corrupt: A file is damaged.
    """
    training, stamp = asked, ""
    if asked.is_resumed:
        before, stamp = places.begun(asked.name)
        training = asked.going_on(before)
    else:
        places.check_free(asked.name)
    base = find_base(training.model, models_dirs)
    size_px = training.filled(base.spec, 1).size_px or 1
    examples = read_folder(
        Path(training.folder),
        training.trigger,
        size_px,
        lambda done, total: on_progress("Reading pictures", done, total),
    )
    if stamp and stamp != stamp_of(examples):
        raise RequestInvalid(
            f"The pictures or captions in {training.folder} are not those that {asked.name!r} began with.",
            "Put them back to go on, or train under another name.",
        )
    places.make()
    return Prepared(training.filled(base.spec, len(examples)), base, examples)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carries out the training that stdin asks for."""
    parser = argparse.ArgumentParser(description="Trains one LoRA for `flowbrush train lora`.")
    parser.add_argument("--models", required=True, type=Path, action="append")
    parser.add_argument("--output", required=True, type=Path, help="the LoRA")
    parser.add_argument("--work", required=True, type=Path, help="folder of the state")
    options = parser.parse_args(arguments)
    for name in ("SIGINT", "SIGHUP"):  # sent to the whole group, but meant for who started it
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # Sleep, do not spin, while the other threads work: on a busy machine spinning is ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    reports = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no report
    orders = os.fdopen(0, "rb", buffering=0, closefd=False)  # a reader with a lock would be held at the end
    with os.fdopen(reports, "wb") as said:
        trainer = Trainer(orders, said)
        return trainer.serve(tuple(options.models), Places(options.output, options.work))


def _as_flux_error(err: Exception) -> FluxError:
    if isinstance(err, FluxError):
        return err
    traceback.print_exc(file=sys.stderr)
    if isinstance(err, MemoryError):
        return OutOfMemory(
            "There is not enough memory for this training.", "Choose a smaller --size or --batch."
        )
    reason = f"{type(err).__name__}: {err}"[:300]
    return Internal(f"The training failed: {reason}.", "Report it; what it saved can go on with --resume.")


if __name__ == "__main__":
    sys.exit(main())
