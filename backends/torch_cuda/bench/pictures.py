"""Whole pictures through the engine, from a request to PNG bytes: what a person waits for.

The model is a folder on disk with random weights, so tokenizers, plans, caches of words, the walk, the
decoder and the encoding of the file are all there. Weights are loaded before anything is timed, and every
timed picture has words that the engine has not read before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from backends.torch_cuda.bench import peer
from backends.torch_cuda.bench.context import Bench
from backends.torch_cuda.bench.figures import Figure, give_back, wait
from backends.torch_cuda.engine import TorchEngine
from flux_core.imaging import codec
from flux_core.messages import Preview, Progress, Stage
from flux_core.request import GenerationRequest, Precision, Task, build_request

_REFERENCE = "0" * 64
INCLUDED = "T5, CLIP, walk, decoder, PNG"
_REACH_S = {"bf16": 3.4, "fp8": 2.35}


@dataclass
class Painter:
    """The engine, told and timed.

    Args:
        bench: The run.
        precision: Of every picture.
        is_roomy: Whether all parts may stay in memory; else each goes when its stage is over.
        others: Devices that compute every picture, too.

    Attributes:
        last: Seconds of the last picture by stage.
    """

    bench: Bench
    precision: Precision
    is_roomy: bool = True
    others: tuple[str, ...] = ()
    engine: TorchEngine = field(init=False)
    last: dict[str, float] = field(default_factory=dict[str, float])
    _words: int = 0

    def __post_init__(self) -> None:
        budget = None if self.is_roomy else 0
        self.engine = TorchEngine(
            str(self.bench.device), (self.bench.models_dir(),), budget, others=self.others
        )

    def request(self, **fields: Any) -> GenerationRequest:
        """A picture of the run's size with words of its own."""
        sizes = self.bench.sizes
        self._words += 1
        letters = "".join(chr(ord("a") + int(digit)) for digit in str(self._words))
        side = sizes.side_px
        common = {
            "model": sizes.spec.model,
            "prompt": f"a picture {letters}",
            "width_px": side,
            "height_px": side,
            "num_steps": sizes.num_steps,
            "precision": self.precision,
        }
        return build_request(**common | fields)

    def paint(self, on_message: Callable[[Progress | Preview], None] | None = None, **fields: Any) -> float:
        """Seconds of one picture."""
        request, started = self.request(**fields), time.perf_counter()
        result = self.engine.run(request, self._blob, on_message or (lambda message: None), lambda: False)
        wait(self.bench.device)
        self.last = result.seconds
        return time.perf_counter() - started

    @property
    def stages(self) -> str:
        """Where the last picture's time went, in words."""
        return ", ".join(f"{stage} {1e3 * seconds:.0f} ms" for stage, seconds in self.last.items())

    def best(self, **fields: Any) -> float:
        """Seconds of a picture, after one that made everything ready; the better of two."""
        self.paint(**fields)
        return min(self.paint(**fields) for _ in range(2))

    def _blob(self, name: str) -> bytes:
        side = self.bench.sizes.side_px
        pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
        return codec.encode_png(pixels)


def dev(bench: Bench) -> None:
    """The long walk, beside diffusers' pipeline."""
    sizes = bench.sizes
    what = f"{sizes.num_steps} steps, {sizes.txt_tokens} words"
    theirs = peer_s(bench, sizes.num_steps, sizes.txt_tokens)
    for painter in painters(bench):
        name = painter.precision.value
        seconds = painter.best()
        floor = bench.floor_s.get(name)
        bench.results.add(
            Figure("dev", f"{what}, {name}", "s", seconds, theirs, peer_name(bench),
                   floor and floor * sizes.num_steps, _REACH_S.get(name),
                   f"{INCLUDED}: {painter.stages}")
        )  # fmt: skip


def schnell(bench: Bench) -> None:
    """The short walk with a short prompt; on dev's weights, which have one small network more."""
    sizes = bench.sizes
    length = sizes.few_t5_tokens or sizes.txt_tokens
    what = f"{sizes.few_steps} steps, {length} words"
    theirs = peer_s(bench, sizes.few_steps, length)
    for painter in painters(bench):
        seconds = painter.best(num_steps=sizes.few_steps, t5_tokens=sizes.few_t5_tokens)
        name = painter.precision.value
        reach = 0.42 if name == "fp8" else None
        bench.results.add(
            Figure("schnell", f"{what}, {name}", "s", seconds, theirs, peer_name(bench), reach=reach,
                   note=f"{INCLUDED}: {painter.stages}")
        )  # fmt: skip


def kontext(bench: Bench) -> None:
    """An edit with one reference of the picture's size, which doubles the image tokens."""
    what = f"{bench.sizes.num_steps} steps, one reference"
    for painter in painters(bench):
        seconds = painter.best(task=Task.EDIT, image=_REFERENCE)
        name = painter.precision.value
        reach = 5.2 if name == "fp8" else None
        bench.results.add(
            Figure(
                "kontext",
                f"{what}, {name}",
                "s",
                seconds,
                reach=reach,
                note=f"encoder, {INCLUDED}: {painter.stages}",
            )
        )


def resolution(bench: Bench) -> None:
    """What the first picture of another size takes longer than the second; the worst of three sizes."""
    width, height = bench.sizes.other_px
    others = [(width, height), (height, width + 32), (width + 64, height)]
    for painter in painters(bench):
        short: dict[str, Any] = {"num_steps": bench.sizes.few_steps}
        painter.best(**short)
        extra_ms: dict[str, float] = {}
        for width_px, height_px in others:
            size = {"width_px": width_px, "height_px": height_px}
            first = painter.paint(**size, **short)
            second = min(painter.paint(**size, **short) for _ in range(2))
            extra_ms[f"{width_px} x {height_px}"] = 1e3 * (first - second)
        bench.results.add(
            Figure(
                "resolution",
                f"first picture of another size over the second, {painter.precision.value}",
                "ms",
                max(extra_ms.values()),
                reach=100.0,
                note="the worst of "
                + ", ".join(f"{size}: {extra:.0f} ms" for size, extra in extra_ms.items()),
            )
        )


def memory(bench: Bench) -> None:
    """The most memory in use while the walk runs, where nothing else is kept."""
    reach = {"bf16": 18.5, "fp8": 10.0}
    for name in bench.precisions:
        what = f"peak in the walk, {name}"
        if bench.device.type != "cuda":
            bench.results.add(Figure("memory", what, "GB", None, note="no GPU"))
            continue
        painter = Painter(bench, Precision(name), is_roomy=False)
        peaks: list[int] = []

        def listen(message: Progress | Preview, peaks: list[int] = peaks) -> None:
            if isinstance(message, Progress) and message.stage is Stage.DENOISING:
                peaks.append(torch.cuda.max_memory_allocated(bench.device))
                torch.cuda.reset_peak_memory_stats(bench.device)

        painter.paint(listen, num_steps=bench.sizes.few_steps)
        note = f"with the modulation's weights, before the first step: {peaks[1] / 1e9:.1f} GB"
        bench.results.add(
            Figure("memory", what, "GB", max(peaks[2:]) / 1e9, reach=reach.get(name), note=note)
        )
        painter.engine.release()
        give_back(bench.device)


def painters(bench: Bench) -> Generator[Painter]:
    """Painters one after the other, so that only one engine holds memory."""
    for name in bench.precisions:
        painter = Painter(bench, Precision(name))
        yield painter
        painter.engine.release()
        give_back(bench.device)


def peer_name(bench: Bench) -> str:
    return f"{peer.NAME}, {'compiled' if bench.is_peer_compiled else 'eager'}"


def peer_s(bench: Bench, num_steps: int, txt_tokens: int) -> float | None:
    """Seconds of a picture by the peer; None where it is not asked for."""
    if not bench.has_peer:
        return None
    pictures = peer.Pictures(bench, bench.is_peer_compiled)
    pictures.paint(num_steps, txt_tokens)
    seconds: list[float] = []
    for _ in range(2):
        wait(bench.device)
        started = time.perf_counter()
        pictures.paint(num_steps, txt_tokens)
        seconds.append(time.perf_counter() - started)
    del pictures
    give_back(bench.device)
    return min(seconds)
