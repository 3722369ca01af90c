"""The bundled family as a subject of measurements: pictures that show something, in seconds, on any device.

Random weights tell how fast a model is and how exact its layers are, but not what an error does to a picture,
nor how much steps have in common. The family is trained, though small: what it says of FLUX.1 is a direction.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.bench.sizes import Sizes
from backends.torch_cuda.helpers import TorchHelpers
from backends.torch_cuda.leaves import Linear, LinearMaker
from backends.torch_cuda.packed import PackedWeight
from flux_core import machine
from flux_core.imaging import codec
from flux_core.looking import Embed, Look, Score
from flux_core.pipeline import FluxEngine
from flux_core.pipeline.workbench import Ready
from flux_core.request import Precision, Task, build_request

MODELS_DIR = Path(__file__).parents[3] / "resources" / "models"
PROMPTS = (
    "a red apple on a blue background",
    "a cat on a green ground under a blue sky",
    "flat illustration of a yellow car on a purple background",
    "a castle on an orange background",
    "line art of an owl on a white background",
    "a pizza on a background of blue and white stripes",
    "pixel art of a rocket on a black background",
    "a green dinosaur on a pink background",
)
EDITS = ("change the background to green", "make it line art", "change the background to red", "make it blue")
_FILLS = ("a yellow star", "a red balloon", "a blue fish", "a pink flower")
_SEED = 1000

Pixels = NDArray[np.uint8]


class Choosing(TorchBackend):
    """A backend that computes in eight bits on every device, but for some matrices.

    Args:
        device: As of TorchBackend.
        kept: Names of matrices that are left in the activations' own precision; None leaves none.
    """

    def __init__(self, device: str, kept: str | None = None) -> None:
        super().__init__(device)
        self.has_fp8 = True
        self._kept = kept

    def linear_maker(self, precision: Precision) -> LinearMaker | None:
        make, kept = super().linear_maker(precision), self._kept
        if make is None or kept is None:
            return make

        def chosen(name: str, weight: nn.Parameter | PackedWeight, bias: nn.Parameter | None) -> Linear:
            return Linear(weight, bias) if re.search(kept, name) else make(name, weight, bias)

        return chosen


class Studio:
    """An engine that paints with the bundled family.

    Args:
        device: That computes.
        sizes: How many pictures of which size.
        ready: As of FluxEngine; None takes the device's graphs.
    """

    def __init__(self, device: torch.device, sizes: Sizes, ready: Ready | None = None) -> None:
        backend = Choosing(str(device))
        self._sizes = sizes
        self._engine = FluxEngine(
            name="torch",
            backend=backend,
            models_dirs=(MODELS_DIR,),
            list_devices=lambda: (machine.processor(),),
            auto_precision=Precision.FP32,
            memory_budget_bytes=2**32,
            helpers=TorchHelpers(backend.device, (MODELS_DIR,)),
            has_fp8=True,
            ready=ready or backend.graphs.ready,
        )

    @functools.cached_property
    def originals(self) -> list[Pixels]:
        """Pictures that the tools are given."""
        return self.generated(model="tiny", precision=Precision.FP32)

    @property
    def prompts(self) -> tuple[str, ...]:
        return PROMPTS[: self._sizes.num_prompts]

    def paint(self, blobs: dict[str, bytes] | None = None, **fields: Any) -> Pixels:
        """One picture [H, W, 3] of the sizes' own side."""
        side, steps = self._sizes.family_px, self._sizes.family_steps
        request = build_request(**{"width_px": side, "height_px": side, "num_steps": steps} | fields)
        read = (blobs or {}).__getitem__
        result = self._engine.run(request, read, lambda message: None, lambda: False)
        return codec.decode(result.images[0].png)[..., :3]

    def painted(self, member: str, **fields: Any) -> list[Pixels]:
        """What a member of the family does with each prompt or each of the originals."""
        match member:
            case "dev" | "schnell":
                return self.generated(model="tiny" if member == "dev" else "tiny-schnell", **fields)
            case "kontext":
                return self.edited(self.originals, **fields)
            case _:
                return self.filled(self.originals, **fields)

    def generated(self, **fields: Any) -> list[Pixels]:
        """A picture of each prompt, each from a seed of its own."""
        return [
            self.paint(prompt=prompt, seed=_SEED + number, **fields)
            for number, prompt in enumerate(self.prompts)
        ]

    def edited(self, pictures: Sequence[Pixels], **fields: Any) -> list[Pixels]:
        """Each picture, changed by an instruction."""
        return [
            self.paint({"0" * 64: codec.encode_png(picture)}, task=Task.EDIT, model="tiny-kontext",
                       image="0" * 64, prompt=EDITS[number % len(EDITS)], seed=_SEED + number, **fields)
            for number, picture in enumerate(pictures)
        ]  # fmt: skip

    def filled(self, pictures: Sequence[Pixels], **fields: Any) -> list[Pixels]:
        """Each picture with something in its middle that was not there."""
        side = self._sizes.family_px
        mask = np.zeros((side, side), np.uint8)
        mask[side // 4 : -side // 4, side // 4 : -side // 4] = 255
        return [
            self.paint({"0" * 64: codec.encode_png(picture), "1" * 64: codec.encode_png(mask)},
                       task=Task.FILL, model="tiny-fill", image="0" * 64, mask="1" * 64,
                       prompt=_FILLS[number % len(_FILLS)], seed=_SEED + number, **fields)
            for number, picture in enumerate(pictures)
        ]  # fmt: skip

    def features(self, pictures: Sequence[Pixels]) -> NDArray[np.float64]:
        """What the shipped CLIP sees in pictures [N, D], each of length 1."""
        return np.array([found.values for found in self._look(Embed(), pictures)], np.float64)

    def recognised(self, pictures: Sequence[Pixels]) -> list[bool]:
        """Whether the shipped CLIP finds each prompt's own picture more like it than any other prompt."""
        look = Score(prompt=self.prompts[0], phrases=self.prompts)
        scores = [[each.similarity for each in found.phrases] for found in self._look(look, pictures)]
        return [int(np.argmax(row)) == number for number, row in enumerate(scores)]

    def _look(self, look: Look, pictures: Sequence[Pixels]) -> Sequence[Any]:
        blobs = {f"{number:064x}": codec.encode_png(picture) for number, picture in enumerate(pictures)}
        first, *others = blobs
        request = build_request(task=Task.LOOK, look=look, image=first, references=tuple(others))
        return self._engine.run(request, blobs.__getitem__, lambda message: None, lambda: False).findings


def psnr_db(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio of two pictures of bytes; 100 where they are equal."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return min(10 * float(np.log10(255.0**2 / max(error, 1e-12))), 100.0)
