"""The model that ships with Flowbrush, on the real engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.mlx_metal.engine import MlxEngine
from backends.torch_cuda.engine import TorchEngine
from flux_core.catalog import TINY
from flux_core.request import Precision, Task
from flux_core.sampling import preview
from tests.support.engine_runs import psnr_db, run, scene

MODELS = Path(__file__).parents[3] / "resources" / "models"

pytestmark = pytest.mark.skipif(
    not (MODELS / TINY.model / TINY.files.transformer).exists(), reason="the weights are not in this checkout"
)


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine("cpu", (MODELS,))


def test_a_solid_background_comes_out_in_the_colour_that_was_asked_for(engine: TorchEngine) -> None:
    picture = run(
        engine,
        model="tiny",
        prompt="a red apple on a blue background",
        seed=7,
        num_steps=8,
        width_px=128,
        height_px=128,
    ).pixels.astype(int)
    border = np.concatenate([picture[:6].reshape(-1, 3), picture[-6:].reshape(-1, 3)])
    red, green, blue = np.median(border, axis=0)
    assert blue > red + 40
    assert blue > green


def test_filling_a_hole_leaves_the_far_side_as_the_autoencoder_keeps_it(engine: TorchEngine) -> None:
    picture = scene(128, 128)
    mask = np.zeros((128, 128), np.uint8)
    mask[:, 96:] = 255
    fields: dict[str, Any] = {"model": "tiny", "width_px": 128, "height_px": 128, "image": picture}
    filled = run(engine, task=Task.FILL, mask=mask, num_steps=4, **fields).pixels
    kept = run(engine, task=Task.FILL, mask=np.minimum(mask, 1), num_steps=4, **fields).pixels
    assert psnr_db(kept, picture) > 20
    assert psnr_db(filled[:, :64], kept[:, :64]) > 30
    assert not np.array_equal(filled[:, 104:], kept[:, 104:])


def test_torch_and_mlx_paint_the_same_picture(engine: TorchEngine) -> None:
    fields: dict[str, Any] = {
        "model": "tiny",
        "prompt": "a red apple on a blue background",
        "seed": 7,
        "num_steps": 4,
    }
    pictures = [
        run(which, precision=Precision.FP32, **fields).pixels for which in (engine, MlxEngine((MODELS,)))
    ]
    assert psnr_db(*pictures) >= 35


def test_it_has_a_preview_map_of_its_own() -> None:
    assert preview.read(MODELS / TINY.model, TINY.autoencoder.latent_channels) is not None
