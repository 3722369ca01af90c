"""How long a step and a picture take on the processor, beside diffusers on the very same weights.

Both engines live in one process and take turns, so whatever else the machine does slows both; a ratio is the
median over the pairs of one turn. `memory` is a process of one engine alone that paints one picture. Every
picture has words that neither has encoded before, and both must paint the same one.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from backends.torch_cuda import diffusers_peer
from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.bench_load import forget_peak, peak_bytes
from backends.torch_cuda.engine import create
from flux_core import catalog, machine
from flux_core.conditioning.packing import pack, position_ids, rotary_table
from flux_core.imaging import codec
from flux_core.models.autoencoder import SCALE_FACTOR
from flux_core.request import Precision, Task, build_request
from flux_core.sampling.noise import seeded_noise
from flux_core.weights.components import load_transformer

OURS, THEIRS = "flowbrush", "diffusers"
_SEED = 7
_PROMPT = "a red apple on a blue background, picture {}"


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds of the same thing, several times."""

    min_s: float
    median_s: float
    max_s: float


@dataclass(frozen=True, slots=True)
class Pair:
    """One thing that both did in turn.

    Attributes:
        what: Of which kind, and how large.
        ratio: Ours to theirs, the median over the turns; None without diffusers.
        ratio_low, ratio_high: The middle half of the turns' ratios lies between them.
        largest_difference: Of any value (0 to 255) of the two first pictures; None where nothing is painted.
    """

    what: str
    ours: Spread
    theirs: Spread | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    largest_difference: int | None = None


class Ours:
    """Our engine, as the service runs it.

    Args:
        model: Its id.
        models_dirs: Where it is.
    """

    def __init__(self, model: str, models_dirs: tuple[Path, ...]) -> None:
        self.spec, self._folder = catalog.locate(catalog.find(model), models_dirs)
        self._engine = create(models_dirs)
        self._backend = TorchBackend("cpu")

    def paint(self, side_px: int, num_steps: int, prompt: str) -> np.ndarray:
        """Words to pixels [H, W, 3], by way of the PNG that the service hands on."""
        request = build_request(
            task=Task.GENERATE, model=self.spec.model, prompt=prompt, seed=_SEED, num_steps=num_steps,
            guidance=self.spec.guidance, width_px=side_px, height_px=side_px,
        )  # fmt: skip
        result = self._engine.run(request, _no_blob, lambda message: None, lambda: False)
        return codec.decode(result.images[0].png)[..., :3]

    def step(self, side_px: int) -> Callable[[], torch.Tensor]:
        """One evaluation of the transformer as a walk does it: told beforehand what its noise level does."""
        told = _Told(self, side_px)
        table = self._backend.from_numpy(told.table)
        rows = self._transformer.modulations(told.vec, told.sigma, told.guidance)
        return lambda: self._transformer.modulated(told.img, told.txt, rows, table)

    @cached_property
    def _transformer(self) -> Any:
        return load_transformer(self.spec, self._folder, self._backend, Precision.FP32)

    @cached_property
    def peer(self) -> Any:
        """diffusers' pipeline of the same files."""
        return diffusers_peer.text_to_image(self.spec, self._folder)


class Theirs:
    """diffusers' pipeline on our weights."""

    def __init__(self, ours: Ours) -> None:
        self._ours = ours
        self._pipe = ours.peer

    def paint(self, side_px: int, num_steps: int, prompt: str) -> np.ndarray:
        """Words to pixels [H, W, 3], from our noise."""
        spec = self._ours.spec
        return np.asarray(
            self._pipe(
                prompt, width=side_px, height=side_px, num_inference_steps=num_steps,
                guidance_scale=spec.guidance, latents=_noise(self._ours, side_px),
                max_sequence_length=spec.t5_tokens,
            ).images[0]
        )  # fmt: skip

    def step(self, side_px: int) -> Callable[[], torch.Tensor]:
        """One evaluation of the transformer, told the same."""
        told = _Told(self._ours, side_px)
        text_tokens = told.txt.shape[1]
        ids = torch.tensor(told.ids, dtype=torch.float32)
        inputs = {
            "hidden_states": told.img, "encoder_hidden_states": told.txt, "pooled_projections": told.vec,
            "timestep": told.sigma, "guidance": told.guidance, "txt_ids": ids[:text_tokens],
            "img_ids": ids[text_tokens:], "return_dict": False,
        }  # fmt: skip
        return lambda: self._pipe.transformer(**inputs)[0]


class _Told:
    """What one evaluation at a size is told: noise, and states that are random but the same for both."""

    def __init__(self, ours: Ours, side_px: int) -> None:
        spec = ours.spec
        side = side_px // SCALE_FACTOR
        self.img = _noise(ours, side_px)
        self.ids = position_ids(spec.t5_tokens, side, side)
        self.table = rotary_table(self.ids, spec.transformer.axes_dim, spec.transformer.theta)
        generator = torch.Generator().manual_seed(_SEED)
        self.txt = torch.randn(1, spec.t5_tokens, spec.transformer.context_in_dim, generator=generator)
        self.vec = torch.randn(1, spec.transformer.vec_in_dim, generator=generator)
        self.sigma = torch.full((1,), 0.7)
        has_guidance = spec.transformer.has_guidance
        self.guidance = torch.full((1,), spec.guidance) if has_guidance else None


def measure(
    model: str,
    models_dirs: tuple[Path, ...],
    sides_px: list[int],
    step_counts: list[int],
    repeats: int,
    has_peer: bool = True,
) -> list[Pair]:
    """Steps and pictures of every size; `repeats` turns of a picture, four times as many of a step."""
    ours = Ours(model, models_dirs)
    found: list[Pair] = []
    with torch.inference_mode():
        theirs = Theirs(ours) if has_peer else None
        for side_px in sides_px:
            size = f"{side_px}x{side_px}"
            found.append(
                _pair(f"step {size}", ours.step(side_px), theirs and theirs.step(side_px), 4 * repeats)
            )
            found += [_pictures(ours, theirs, side_px, count, repeats) for count in step_counts]
    return found


def memory(who: str, model: str, models_dirs: tuple[Path, ...], side_px: int, num_steps: int) -> int:
    """Peak resident bytes of this process while one engine, loaded and alone in it, paints a picture."""
    ours = Ours(model, models_dirs)
    with torch.inference_mode():
        painter = ours if who == OURS else Theirs(ours)
        painter.paint(side_px, num_steps, _PROMPT)
        gc.collect()
        forget_peak()
        painter.paint(side_px, num_steps, f"{_PROMPT}, again")
    return peak_bytes()


def _pictures(ours: Ours, theirs: Theirs | None, side_px: int, num_steps: int, repeats: int) -> Pair:
    made: dict[str, list[np.ndarray]] = {OURS: [], THEIRS: []}

    def painter(name: str, paint: Callable[[int, int, str], np.ndarray]) -> Callable[[], None]:
        def next_one() -> None:
            pictures = made[name]
            pictures.append(
                paint(side_px, num_steps, _PROMPT.format(f"{side_px} {num_steps} {len(pictures)}"))
            )

        return next_one

    pair = _pair(
        f"picture {side_px}x{side_px}, {num_steps} steps",
        painter(OURS, ours.paint),
        painter(THEIRS, theirs.paint) if theirs else None,
        repeats,
    )
    if theirs is None:
        return pair
    first, peers = made[OURS][0].astype(int), made[THEIRS][0].astype(int)
    return replace(pair, largest_difference=int(np.abs(first - peers).max()))


def _pair(what: str, ours: Callable[[], Any], theirs: Callable[[], Any] | None, turns: int) -> Pair:
    """Both once to warm up, then in turn; who goes first alternates."""
    runs = {OURS: ours} if theirs is None else {OURS: ours, THEIRS: theirs}
    took: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for turn in range(turns):
        for name in list(runs) if turn % 2 == 0 else reversed(runs):
            started = time.perf_counter()
            runs[name]()
            took[name].append(time.perf_counter() - started)
    return pair_of(what, took[OURS], took.get(THEIRS))


def pair_of(what: str, ours_s: list[float], theirs_s: list[float] | None) -> Pair:
    """The figures of the turns, in their order."""
    if theirs_s is None:
        return Pair(what, _spread(ours_s), None, None, None, None)
    ratios = sorted(a / b for a, b in zip(ours_s, theirs_s, strict=True))
    quarter = (len(ratios) - 1) // 4
    low, high = ratios[quarter], ratios[-1 - quarter]
    return Pair(what, _spread(ours_s), _spread(theirs_s), statistics.median(ratios), low, high)


def _spread(seconds: list[float]) -> Spread:
    return Spread(min(seconds), statistics.median(seconds), max(seconds))


def _noise(ours: Ours, side_px: int) -> torch.Tensor:
    """Our noise as tokens [1, L, 64], so that both start from the same."""
    side = side_px // SCALE_FACTOR
    backend = TorchBackend("cpu")
    noise = seeded_noise(_SEED, side, side, ours.spec.autoencoder.latent_channels)
    return pack(backend.ops, backend.from_numpy(noise)).contiguous()


def _no_blob(name: str) -> NoReturn:
    raise KeyError(name)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure steps and pictures on the processor.")
    parser.add_argument("what", choices=["times", "memory"])
    parser.add_argument(
        "--who", choices=[OURS, THEIRS], default=THEIRS, help="of memory; of times, with whom"
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--models", type=Path, action="append", required=True)
    parser.add_argument("--side", type=int, action="append", required=True, help="in pixels")
    parser.add_argument("--steps", type=int, action="append", required=True)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    models_dirs = tuple(options.models)
    if options.what == "memory":
        peak = memory(options.who, options.model, models_dirs, options.side[0], options.steps[0])
        found: dict[str, Any] = {"peak_bytes": peak}
    else:
        pairs = measure(
            options.model, models_dirs, options.side, options.steps, options.repeats, options.who == THEIRS
        )
        found = {
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "processor": machine.processor_name(),
            "pairs": [asdict(pair) for pair in pairs],
        }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
