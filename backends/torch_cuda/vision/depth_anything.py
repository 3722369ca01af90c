"""Depth Anything V2: how near everything in a picture is, without a scale.

What the network gives is already one over the distance, up to a factor and an offset, which is the form that
FLUX.1 Depth was trained with. Its metric variants give metres and are turned over.

Source: Yang et al. 2024; black-forest-labs/flux image_embedders.py (DepthImageEncoder).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from backends.torch_cuda.vision import library
from backends.torch_cuda.vision.pictures import Pixels, as_image, nearness_map
from backends.torch_cuda.vision.registry import Looked, Source
from flux_core.looking import DepthFound, Look

MIN_DEPTH_M = 1e-3


class DepthAnything:
    """A registry.Helper."""

    def __init__(self, source: Source, model: Any, processor: Any) -> None:
        self._source = source
        self._model = model
        self._processor = processor
        self._is_metric: bool = model.config.depth_estimation_type == "metric"

    def look(self, look: Look, images: Sequence[Pixels], on_progress: Callable[[float], None]) -> Looked:
        height, width = images[0].shape[:2]
        inputs = self._processor(images=as_image(images[0]), return_tensors="pt")
        raw = self._model(pixel_values=inputs.pixel_values.to(self._source.device)).predicted_depth
        large = torch.nn.functional.interpolate(
            raw[:, None].float(), (height, width), mode="bicubic", align_corners=False
        )[0, 0]
        on_progress(1.0)
        nearest = farthest = None
        if self._is_metric:
            metres = large.clamp(min=MIN_DEPTH_M)
            nearest, farthest = float(metres.min()), float(metres.max())
            large = 1.0 / metres
        picture = nearness_map(large.cpu().numpy())
        finding = DepthFound(model=self._source.model, image=0, nearest_m=nearest, farthest_m=farthest)
        return Looked((finding,), (picture,))


def load(source: Source) -> DepthAnything:
    """Reads a Depth Anything."""
    tf = library.transformers()
    folder, title = source.folder, source.title
    processor = library.load_processor(tf.DPTImageProcessorPil, folder, title)
    kind = tf.DepthAnythingForDepthEstimation
    return DepthAnything(
        source, library.load_model(kind, folder, title, source.device, torch.float32), processor
    )
