"""What the torch engine has beside FLUX.1: models that look at pictures, maps made by them, upscalers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from backends.torch_cuda.upscaler import find_library, load_upscaler
from backends.torch_cuda.vision.library import check_installed
from backends.torch_cuda.vision.look import look as look_at
from flux_core.catalog.helpers import choose, folder_of_helper
from flux_core.companions import UPSCALERS, find_file
from flux_core.conditioning.pixels import resized
from flux_core.looking import Depth, Finding, Look
from flux_core.messages import Stage
from flux_core.pipeline.helpers import NoHelpers
from flux_core.reporting import Report
from flux_core.request import ControlKind, GenerationRequest

Bytes = NDArray[np.uint8]


class TorchHelpers(NoHelpers):
    """flux_core.pipeline.helpers.Helpers on a torch device.

    Args:
        device: That computes.
        models_dirs: Where helpers are looked for.
    """

    def __init__(self, device: torch.device, models_dirs: tuple[Path, ...]) -> None:
        self._device = device
        self._models_dirs = models_dirs

    makes = (ControlKind.CANNY, ControlKind.DEPTH)

    def check(self, request: GenerationRequest) -> None:
        super().check(request.model_copy(update={"upscaler": ""}))
        if any(use.kind is ControlKind.DEPTH and not use.is_map for use in request.controls):
            choose(Depth(), self._folder_of)
            check_installed()
        if request.upscaler:
            find_library()

    def control_map(self, kind: ControlKind, rgba: Bytes, report: Report) -> Bytes:
        if kind is not ControlKind.DEPTH:
            return super().control_map(kind, rgba, report)
        _, (depth,) = self._look(Depth(), [rgba], report, Stage.ENCODING)
        return np.dstack([depth, depth, depth, np.full_like(depth, 255)])

    def enlarge(self, rgba: Bytes, name: str, report: Report) -> Bytes:
        path = find_file(name, UPSCALERS, self._models_dirs, "upscaler")
        upscaler = load_upscaler(path, str(self._device))
        try:
            rgb = upscaler(rgba[..., :3], lambda done, total: report.check())
        finally:
            upscaler.free()
        height, width = rgb.shape[:2]
        return np.dstack([rgb, resized(rgba, width, height)[..., 3]])

    def look(
        self, look: Look, images: Sequence[Bytes], report: Report
    ) -> tuple[Sequence[Finding], Sequence[Bytes]]:
        return self._look(look, images, report, Stage.LOOKING)

    def _look(
        self, look: Look, images: Sequence[Bytes], report: Report, stage: Stage
    ) -> tuple[Sequence[Finding], Sequence[Bytes]]:
        return look_at(look, images, self._folder_of, self._device, report, stage)

    def _folder_of(self, model: str) -> Path | None:
        return folder_of_helper(model, self._models_dirs)
