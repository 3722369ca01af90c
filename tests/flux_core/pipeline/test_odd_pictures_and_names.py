"""Pictures and names at the edge of what a request may bring."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from flux_core.conditioning.inputs import covered
from flux_core.errors import ModelMissing
from flux_core.imaging.codec import encode_png
from flux_core.pipeline import FluxEngine
from flux_core.request import build_request
from tests.support import family_random as family
from tests.support.engine_runs import run, scene


def rgba(width_px: int, height_px: int) -> np.ndarray:
    return np.dstack([scene(width_px, height_px), np.full((height_px, width_px), 255, np.uint8)])


@pytest.mark.parametrize("size", [(100, 60), (333, 64), (64, 200)])
def test_the_middle_of_a_control_picture_is_what_scaling_the_whole_and_cutting_gives(
    size: tuple[int, int],
) -> None:
    request = build_request(width_px=96, height_px=80)
    picture = rgba(*size)
    factor = max(96 / size[0], 80 / size[1])
    wide, high = max(96, round(size[0] * factor)), max(80, round(size[1] * factor))
    whole = np.array(Image.fromarray(picture).resize((wide, high), Image.Resampling.LANCZOS)).astype(int)
    left, top = (wide - 96) // 2, (high - 80) // 2
    assert np.abs(covered(picture, request) - whole[top : top + 80, left : left + 96]).max() <= 1


def test_a_control_picture_one_pixel_wide_takes_no_more_memory_than_another() -> None:
    request = build_request(width_px=1024, height_px=1024)
    assert covered(rgba(1, 16384), request).shape == (1024, 1024, 4)  # scaled as a whole it is 69 GB


@pytest.mark.parametrize("field", ["loras", "controls"])
def test_a_name_of_more_bytes_than_a_file_system_takes_is_not_there(
    any_engine: FluxEngine, field: str
) -> None:
    picture = encode_png(scene(64, 64))
    uses: dict[str, Any] = {
        "loras": {"name": "é" * 190},
        "controls": {"model": "é" * 190, "kind": "canny", "image": picture},
    }
    fields: dict[str, Any] = {field: [uses[field]]}
    with pytest.raises(ModelMissing):
        run(any_engine, model=family.DEV.model, num_steps=1, **fields)
