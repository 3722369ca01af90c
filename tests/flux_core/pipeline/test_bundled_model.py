"""The model that ships with Flowbrush, on the real engines."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.mlx_metal.engine import MlxEngine
from backends.torch_cuda.engine import TorchEngine
from flux_core import catalog
from flux_core.catalog import TINY
from flux_core.request import Precision, Task
from flux_core.sampling import preview
from flux_core.weights.open import open_source
from flux_core.weights.quant.forms import FORMS
from flux_core.weights.quantize import quantize
from tests.support.engine_runs import psnr_db, run, scene

MODELS = Path(__file__).parents[3] / "resources" / "models"
SIZE = {"width_px": 256, "height_px": 256}


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine("cpu", (MODELS,))


def test_filling_a_hole_leaves_the_far_side_as_the_autoencoder_keeps_it(engine: TorchEngine) -> None:
    picture = scene(256, 256)
    mask = np.zeros((256, 256), np.uint8)
    mask[:, 192:] = 255
    fields: dict[str, Any] = {"model": "tiny", **SIZE, "image": picture}
    filled = run(engine, task=Task.FILL, mask=mask, num_steps=4, **fields).pixels
    kept = run(engine, task=Task.FILL, mask=np.minimum(mask, 1), num_steps=4, **fields).pixels
    assert psnr_db(kept, picture) > 20
    assert psnr_db(filled[:, :128], kept[:, :128]) > 30
    assert not np.array_equal(filled[:, 208:], kept[:, 208:])


@pytest.fixture(scope="module")
def mlx_engine() -> MlxEngine:
    return MlxEngine((MODELS,))


def right_half(side_px: int) -> np.ndarray:
    mask = np.zeros((side_px, side_px), np.uint8)
    mask[:, side_px // 2 :] = 255
    return mask


ABLE: dict[str, dict[str, Any]] = {
    "text to image": {"num_steps": 4},
    "image to image by places": {
        "task": "transform", "image": scene(64, 64), "mask": right_half(64), "strength": 0.5, "num_steps": 2,
    },
    "inpainting": {"task": "fill", "image": scene(64, 64), "mask": right_half(64)},
    "super-resolution": {
        "task": "upscale", "image": scene(64, 64), "width_px": 96, "height_px": 96, "strength": 1.0,
    },
    "regions": {"regions": [{"prompt": "a green car", "mask": right_half(64)}], "negative_prompt": "blue",
                "true_guidance": 4.0},
    "few steps": {"model": "tiny-schnell", "num_steps": 2},
    "Fill": {"model": "tiny-fill", "task": "fill", "image": scene(64, 64), "mask": right_half(64)},
    "editing": {"model": "tiny-kontext", "task": "edit", "image": scene(64, 64), "num_steps": 2},
    "edges": {"task": "control", "controls": [{"kind": "canny", "image": scene(64, 64), "is_map": False}]},
    "depth": {"task": "control", "controls": [{"kind": "depth", "image": scene(64, 64)}]},
    "likeness": {"task": "vary", "pictures": [{"image": scene(64, 64), "strength": 0.7}]},
    "the fast decoder": {"decoder": "fast"},
}  # fmt: skip
"""Every task that the family can do."""


@pytest.mark.parametrize("title", ABLE)
def test_torch_and_mlx_paint_the_same_picture(
    engine: TorchEngine, mlx_engine: MlxEngine, monkeypatch: pytest.MonkeyPatch, title: str
) -> None:
    """Small pictures, and for super-resolution windows that are smaller still."""
    monkeypatch.setitem(catalog.MODELS, "tiny", replace(TINY, working_side_px=64))
    usual = {"model": "tiny", "prompt": "a red apple on a blue background", "seed": 7, "num_steps": 1}
    fields: dict[str, Any] = {**usual, "width_px": 64, "height_px": 64, **ABLE[title]}
    pictures = [run(which, precision=Precision.FP32, **fields).pixels for which in (engine, mlx_engine)]
    assert psnr_db(*pictures) >= 35


@pytest.mark.parametrize(("form", "least_db"), [("fp8", 30), ("nf4", 25), ("mlx8", 35)])
def test_a_quantised_copy_paints_nearly_the_same_picture(
    engine: TorchEngine, tmp_path: Path, form: str, least_db: float
) -> None:
    copy = tmp_path / TINY.model
    shutil.copytree(MODELS / TINY.model, copy, ignore=shutil.ignore_patterns("transformer.safetensors"))
    whole = MODELS / TINY.model / TINY.files.transformer
    quantize(open_source(whole), FORMS[form], copy / TINY.files.transformer)
    fields: dict[str, Any] = {"model": "tiny", "prompt": "a red apple on a blue background", "seed": 7}
    fields |= {"num_steps": 4, "width_px": 128, "height_px": 128}
    pictures = [run(which, **fields).pixels for which in (engine, TorchEngine("cpu", (tmp_path,)))]
    assert psnr_db(*pictures) > least_db


def test_it_has_a_preview_map_of_its_own() -> None:
    assert preview.read(MODELS / TINY.model, TINY.autoencoder.latent_channels) is not None
