"""How long a step and a picture take on the processor, beside diffusers on the very same weights.

Both engines live in one process and take turns (bench_turns.py). `memory` is a process of one engine alone
that paints one picture. Every picture has words that neither has encoded before, and both must paint the
same one.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from backends.torch_cuda import diffusers_peer
from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.bench_load import forget_peak, peak_bytes
from backends.torch_cuda.bench_turns import OURS, THEIRS, Pair, Turns
from backends.torch_cuda.engine import create
from flux_core import catalog, machine
from flux_core.conditioning.packing import pack, position_ids, rotary_table
from flux_core.imaging import codec
from flux_core.models.autoencoder import SCALE_FACTOR
from flux_core.request import Precision, Task, build_request
from flux_core.sampling.noise import seeded_noise
from flux_core.weights.components import load_transformer

_SEED = 7
_PROMPT = "a red apple on a blue background, picture {}"

Watcher = Callable[[str, str, float], None]
"""Told what is measured, how far that is, and how much of everything is done, in [0, 1]."""


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
    pictures: list[tuple[int, int]],
    seconds: float,
    has_peer: bool = True,
    tell: Watcher = lambda what, detail, done: None,
) -> list[Pair]:
    """Steps of every size and pictures, each for about `seconds`, but FEWEST_TURNS at least.

    Args:
        model: Its id.
        models_dirs: Where it is.
        sides_px: Of the steps.
        pictures: Side in pixels and number of steps of each.
        seconds: For each of them.
        has_peer: Whether diffusers is there.
        tell: Called before each turn.
    """
    tell("Loading", "", 0.0)
    ours = Ours(model, models_dirs)
    things = [("step", side_px, 0) for side_px in sides_px] + [("picture", *picture) for picture in pictures]
    found: list[Pair] = []
    warm: set[tuple[str, int]] = set()
    with torch.inference_mode():
        theirs = Theirs(ours) if has_peer else None
        for place, (kind, side_px, num_steps) in enumerate(things):
            size = f"{side_px}x{side_px}"
            what = f"step {size}" if kind == "step" else f"picture {size}, {num_steps} steps"

            def watch(detail: str, done: float, what: str = what, place: int = place) -> None:
                tell(what.capitalize(), detail, (place + done) / len(things))

            turns = Turns(seconds, (kind, side_px) not in warm, watch)
            found.append(
                turns.pair(what, ours.step(side_px), theirs and theirs.step(side_px))
                if kind == "step"
                else _pictures(what, turns, ours, theirs, side_px, num_steps)
            )
            warm.add((kind, side_px))
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


def _pictures(
    what: str, turns: Turns, ours: Ours, theirs: Theirs | None, side_px: int, num_steps: int
) -> Pair:
    """Every picture of other words; the first two are compared."""
    firsts: dict[str, np.ndarray] = {}

    def painter(name: str, paint: Callable[[int, int, str], np.ndarray]) -> Callable[[], None]:
        numbers = count()

        def next_one() -> None:
            picture = paint(side_px, num_steps, _PROMPT.format(f"{side_px} {num_steps} {next(numbers)}"))
            firsts.setdefault(name, picture)

        return next_one

    pair = turns.pair(what, painter(OURS, ours.paint), painter(THEIRS, theirs.paint) if theirs else None)
    if theirs is None:
        return pair
    difference = np.abs(firsts[OURS].astype(int) - firsts[THEIRS].astype(int)).max()
    return replace(pair, largest_difference=int(difference))


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
    parser.add_argument("--side", type=int, action="append", default=[], help="of steps, in pixels")
    parser.add_argument(
        "--picture", type=int, nargs=2, action="append", required=True, help="side in pixels, and steps"
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="for each step and picture")
    options = parser.parse_args()
    models_dirs = tuple(options.models)
    pictures: list[tuple[int, int]] = [tuple(picture) for picture in options.picture]
    if options.what == "memory":
        found: dict[str, Any] = {"peak_bytes": memory(options.who, options.model, models_dirs, *pictures[0])}
    else:
        pairs = measure(
            options.model, models_dirs, options.side, pictures, options.seconds, options.who == THEIRS, _tell
        )
        found = {
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "processor": machine.processor_name(),
            "pairs": [asdict(pair) for pair in pairs],
        }
    _write({"found": found})


def _tell(what: str, detail: str, done: float) -> None:
    _write({"what": what, "detail": detail, "done": done})


def _write(line: dict[str, Any]) -> None:
    """Progress is an object a line, and so is what was found, in the end."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
