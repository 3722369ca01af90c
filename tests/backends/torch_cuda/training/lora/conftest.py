"""A folder of five small pictures, and a model small enough to be trained in a moment."""

from __future__ import annotations

import numpy as np
import pytest

from backends.torch_cuda.training.lora.places import Places
from flux_core import catalog
from flux_core.imaging import codec
from tests.support.tiny_random import MICRO, write_models_dir


@pytest.fixture
def folder(tmp_path):
    where = tmp_path / "pictures"
    where.mkdir()
    for number, (width, height) in enumerate([(64, 64), (80, 64), (64, 64), (64, 80), (64, 64)]):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        (where / f"p{number}.png").write_bytes(codec.encode_png(pixels))
        (where / f"p{number}.txt").write_text(f"a thing of the kind {number % 2}")
    return where


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setitem(catalog.MODELS, MICRO.model, MICRO)
    return (write_models_dir(tmp_path / "models", MICRO),)


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path / "models" / "loras" / "ink.safetensors", tmp_path / "work")
