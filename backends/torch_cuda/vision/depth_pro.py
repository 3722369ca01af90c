"""Depth Pro: how near everything in a picture is, in metres, with the camera's focal length.

The network gives one over the distance at a canonical focal length, and the field of view that the picture
was taken with. The picture is resized here, because the library's own processor needs torchvision.

Source: Bochkovskii et al. 2024; transformers DepthProImageProcessor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from backends.torch_cuda.vision import library
from backends.torch_cuda.vision.pictures import Pixels, as_tensor, nearness_map, on_white
from backends.torch_cuda.vision.registry import Looked, Source
from flux_core.looking import DepthFound, Look

MIN_NEARNESS, MAX_NEARNESS = 1e-4, 1e4  # one over metres: 0.1 mm to 10 km
HALF = (0.5, 0.5, 0.5)
DEFAULT_SIDE_PX = 1536
MIN_FIELD_OF_VIEW = 0.01  # degrees


class DepthPro:
    """A registry.Helper.

    Args:
        settings: Of preprocessor_config.json; what it leaves open is the published model's.
    """

    def __init__(self, source: Source, model: Any, settings: dict[str, Any]) -> None:
        self._source = source
        self._model = model
        size = settings.get("size", {})
        self._size = (size.get("height", DEFAULT_SIDE_PX), size.get("width", DEFAULT_SIDE_PX))
        self._mean: Sequence[float] = settings.get("image_mean", HALF)
        self._std: Sequence[float] = settings.get("image_std", HALF)

    def look(self, look: Look, images: Sequence[Pixels], on_progress: Callable[[float], None]) -> Looked:
        height, width = images[0].shape[:2]
        answer = self._model(pixel_values=self._pixel_values(images[0]))
        on_progress(1.0)
        raw = answer.predicted_depth.float()[:, None]  # [1, 1, h, w]
        focal_px = None if answer.field_of_view is None else _focal_px(float(answer.field_of_view[0]), width)
        if focal_px is not None:
            raw = raw * (width / focal_px)
        large = torch.nn.functional.interpolate(raw, (height, width), mode="bilinear", align_corners=False)
        nearness = large[0, 0].clamp(MIN_NEARNESS, MAX_NEARNESS)
        is_metric = focal_px is not None
        finding = DepthFound(
            model=self._source.model,
            image=0,
            nearest_m=1.0 / float(nearness.max()) if is_metric else None,
            farthest_m=1.0 / float(nearness.min()) if is_metric else None,
            focal_length_px=focal_px,
        )
        return Looked((finding,), (nearness_map(nearness.cpu().numpy()),))

    def _pixel_values(self, image: Pixels) -> torch.Tensor:
        """[1, 3, H, W] float32; stretched to the model's square, as it was trained."""
        x = as_tensor(on_white(image), self._mean, self._std, self._source.device)
        return torch.nn.functional.interpolate(x, self._size, mode="bilinear", align_corners=False)


def load(source: Source) -> DepthPro:
    """Reads a Depth Pro."""
    tf = library.transformers()
    kind = tf.DepthProForDepthEstimation
    model = library.load_model(kind, source.folder, source.title, source.device, torch.float32)
    settings = library.read_settings(source.folder, "preprocessor_config.json", source.title)
    return DepthPro(source, model, settings)


def _focal_px(field_of_view_degrees: float, width_px: int) -> float | None:
    """Of the lens that sees so many degrees over a picture's width; None if no lens does."""
    if not MIN_FIELD_OF_VIEW <= field_of_view_degrees <= 180.0 - MIN_FIELD_OF_VIEW:
        return None
    return 0.5 * width_px / math.tan(0.5 * math.radians(field_of_view_degrees))
