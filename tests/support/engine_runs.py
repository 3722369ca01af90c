"""Runs requests on an engine and keeps all that it says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flux_core.engine import Engine, EngineResult
from flux_core.imaging import codec
from flux_core.messages import Preview, Progress
from flux_core.request import build_request


@dataclass
class Run:
    """One run: its result, and its messages in order."""

    result: EngineResult
    said: list[Progress | Preview] = field(default_factory=list)

    @property
    def progress(self) -> list[Progress]:
        return [message for message in self.said if isinstance(message, Progress)]

    @property
    def previews(self) -> list[Preview]:
        return [message for message in self.said if isinstance(message, Preview)]

    @property
    def pixels(self) -> np.ndarray:
        """The first picture, [H, W, 3]."""
        return codec.decode(self.result.images[0].png)[..., :3]


def run(
    engine: Engine,
    *,
    is_cancelled: Callable[[], bool] = lambda: False,
    on_message: Callable[[Progress | Preview], None] = lambda message: None,
    **fields: Any,
) -> Run:
    """Runs one request; pictures anywhere in its fields are pixels or the bytes of a file."""
    blobs: dict[str, bytes] = {}
    fields = _sent(fields, blobs)
    said: list[Progress | Preview] = []

    def say(message: Progress | Preview) -> None:
        said.append(message)
        on_message(message)

    request = build_request(**{"model": "micro", "width_px": 64, "height_px": 64, "num_steps": 3, **fields})
    return Run(engine.run(request, blobs.__getitem__, say, is_cancelled), said)


def _sent(value: Any, blobs: dict[str, bytes]) -> Any:
    """The fields with every picture's name in place of it; its content goes to `blobs`."""
    match value:
        case np.ndarray() | bytes():
            content = value if isinstance(value, bytes) else codec.encode_png(value)
            digest = hashlib.sha256(content).hexdigest()
            blobs[digest] = content
            return digest
        case dict():
            return {name: _sent(each, blobs) for name, each in value.items()}
        case list() | tuple():
            return [_sent(each, blobs) for each in value]
        case _:
            return value


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two pictures of bytes; infinite when equal."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if error == 0 else 10 * np.log10(255.0**2 / error)


def scene(width_px: int, height_px: int) -> np.ndarray:
    """A smooth picture with an edge, [H, W, 3]."""
    y, x = np.mgrid[0:height_px, 0:width_px].astype(np.float64)
    red, green = 255 * x / width_px, 255 * y / height_px
    blue = np.where((x - width_px / 2) ** 2 + (y - height_px / 2) ** 2 < (width_px / 4) ** 2, 220.0, 40.0)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)
