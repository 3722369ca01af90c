"""Upscaler models (ESRGAN and its many relatives), as a better start for super-resolution than Lanczos.

The architectures are spandrel's, which is optional: it needs the torchvision that was built with this very
torch. Only safetensors files are read; the model sees the picture tile by tile and is freed when it is done.

Source: chaiNNer-org/spandrel (MIT).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.torch_cuda.backend import tensor_of
from flux_core.errors import Corrupt, ModelMissing, RequestInvalid
from flux_core.imaging.tiles import tiled_apply
from flux_core.weights.open import open_container
from flux_core.weights.safetensors_file import SafetensorsFile

WINDOW_PX = 256  # of the small picture
OVERLAP_PX = 32
_MARGIN_PX = 8  # at a tile's edge a convolution net sees zeros instead of the picture
_INSTALL = "Install it with: pip install 'flowbrush[upscale]'."

Pixels = NDArray[np.uint8]


class Upscaler:
    """A loaded upscaler model. One thread uses it.

    Args:
        model: [1, 3, h, w] in [0, 1] -> [1, 3, scale * h, scale * w].
        scale: How much larger its pictures are.
        device: Where it computes, in float32.
    """

    def __init__(self, model: Callable[[Tensor], Tensor], scale: int, device: torch.device) -> None:
        self.scale = scale
        self._model: Callable[[Tensor], Tensor] | None = model
        self._device = device

    def __call__(self, picture: Pixels, check: Callable[[int, int], None] | None = None) -> Pixels:
        """Enlarges a picture.

        Args:
            picture: [H, W, 3] sRGB.
            check: Called before each tile with (done, total); raise from it to stop.

        Returns:
            [scale * H, scale * W, 3].

        Raises:
            RequestInvalid: The model has been freed.
        """
        x = picture[None, ..., :3].astype(np.float32) / np.float32(255)
        enlarged = tiled_apply(self._tile, x, WINDOW_PX, OVERLAP_PX, self.scale, check, _MARGIN_PX)[0]
        return np.rint(np.clip(enlarged, 0.0, 1.0) * 255.0).astype(np.uint8)

    def free(self) -> None:
        """Gives the model's memory back."""
        self._model = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _tile(self, part: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._model is None:
            raise RequestInvalid("The upscaler model has been freed.", "Load it again.")
        with torch.inference_mode():
            image = torch.from_numpy(part).to(self._device).permute(0, 3, 1, 2).contiguous()
            return self._model(image).permute(0, 2, 3, 1).float().cpu().numpy()


def load_upscaler(path: Path, device: str = "cpu") -> Upscaler:
    """Loads an upscaler model.

    Args:
        path: A safetensors file of an architecture that spandrel knows.
        device: "cpu", "cuda" or "cuda:1".

    Raises:
        ModelMissing: The file or spandrel is not there.
        Corrupt: The file is damaged, a pickle, or no safetensors file.
        RequestInvalid: It is of no known architecture, or does not enlarge RGB pictures.
    """
    source = open_container(path)
    if not isinstance(source, SafetensorsFile):
        raise Corrupt(f"{path} is no safetensors file.", "Get the upscaler model as safetensors.")
    spandrel = find_library()
    state = {name: tensor_of(source.read(name)).clone() for name in source.names()}
    found: Any = None
    try:
        found = spandrel.ModelLoader(device=device).load_from_state_dict(state)
    except spandrel.UnsupportedModelError:
        pass
    except (RuntimeError, ValueError, KeyError, IndexError, AssertionError) as err:
        raise Corrupt(f"{path} is damaged: its tensors do not fit together.", "Get it again.") from err
    if not isinstance(found, spandrel.ImageModelDescriptor) or not _enlarges_rgb(found):
        raise RequestInvalid(
            f"{path} is no upscaler model for RGB pictures.",
            "Choose an ESRGAN, SwinIR, DAT, HAT or similar model that enlarges 2 or 4 times.",
        )
    found.float().eval()
    return Upscaler(found, int(found.scale), torch.device(device))


def _enlarges_rgb(found: Any) -> bool:
    return found.input_channels == 3 and found.output_channels == 3 and found.scale >= 1


def find_library() -> Any:
    """The library spandrel.

    Raises:
        ModelMissing: It is not here, or its torchvision was built for another torch.
    """
    try:
        return importlib.import_module("spandrel")
    except ImportError as err:
        raise ModelMissing(
            "Upscaler models need the library spandrel, which is not there.", _INSTALL
        ) from err
    except RuntimeError as err:  # torchvision's way of saying that it was built for another torch
        raise ModelMissing(
            "Upscaler models need a torchvision of the same build as torch, and this one is of another.",
            f"Install torchvision from where torch {torch.__version__} came from.",
        ) from err
