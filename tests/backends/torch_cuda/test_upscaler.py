"""Upscaler models: tiled without a trace, safetensors only, and a sentence where something is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from backends.torch_cuda.upscaler import Upscaler, load_upscaler
from flux_core.errors import Corrupt, ModelMissing, RequestInvalid
from flux_core.imaging.geometry import Box
from flux_core.imaging.tiles import plan_tiling
from flux_core.imaging.upscale import seam_energy
from tests.flux_core.imaging.scenes import Scene, to_bytes

CPU = torch.device("cpu")


class Small(nn.Module):
    """Three convolutions and a pixel shuffle: a real model that sees a few pixels around each."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(16, 3 * scale**2, 3, padding=1),
            nn.PixelShuffle(scale),
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) * 0.5 + 0.5).clamp(0, 1)


def test_tiles_make_the_same_picture_as_the_whole():
    picture = to_bytes(Scene(1, 300, 420).view())
    model = Small(2)
    tiled = Upscaler(model, 2, CPU)(picture)
    with torch.inference_mode():
        whole = model(torch.from_numpy(picture[None]).permute(0, 3, 1, 2).float() / 255)
    expected = np.rint(whole[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    assert tiled.shape == (600, 840, 3)
    assert np.abs(tiled.astype(int) - expected).max() <= 1
    boxes = [Box(2 * w.x0, 2 * w.y0, 2 * w.x1, 2 * w.y1) for w in plan_tiling(300, 420, 256, 32, 1).windows]
    assert seam_energy(tiled, boxes) == pytest.approx(seam_energy(expected, boxes), rel=0.05)


def test_it_stops_between_tiles_and_is_gone_when_freed():
    upscaler = Upscaler(Small(2), 2, CPU)
    seen: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        upscaler(np.zeros((300, 300, 3), np.uint8), stop)
    assert seen == [(0, 4), (1, 4)]
    upscaler.free()
    with pytest.raises(RequestInvalid, match="freed"):
        upscaler(np.zeros((8, 8, 3), np.uint8))


def test_a_pickle_is_refused_before_anything_reads_it(tmp_path: Path):
    torch.save({"conv_first.weight": torch.zeros(1)}, tmp_path / "4x.pth")
    with pytest.raises(Corrupt, match="pickle") as caught:
        load_upscaler(tmp_path / "4x.pth")
    assert "safetensors" in caught.value.hint
    with pytest.raises(ModelMissing):
        load_upscaler(tmp_path / "not there.safetensors")


def test_without_spandrel_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(ModelMissing, match="spandrel") as caught:
        load_upscaler(tmp_path / "a.safetensors")
    assert "flowbrush[upscale]" in caught.value.hint


def esrgan_state(features: int = 8, growth: int = 32) -> dict[str, Tensor]:
    """A random ESRGAN of one block that enlarges four times, in the keys of its authors' first release."""
    torch.manual_seed(1)
    shapes = {"model.0": (features, 3), "model.1.sub.1": (features, features)}
    for dense in (1, 2, 3):
        for k in range(1, 6):
            out = features if k == 5 else growth
            shapes[f"model.1.sub.0.RDB{dense}.conv{k}.0"] = (out, features + (k - 1) * growth)
    shapes |= {f"model.{k}": (features, features) for k in (3, 6, 8)} | {"model.10": (3, features)}
    state: dict[str, Tensor] = {}
    for name, (out, into) in shapes.items():
        state[f"{name}.weight"] = torch.randn(out, into, 3, 3) * 0.1
        state[f"{name}.bias"] = torch.zeros(out)
    return state


def test_an_esrgan_file_enlarges_four_times(tmp_path: Path):
    pytest.importorskip("spandrel", reason="spandrel is the optional extra `upscale`")
    save_file(esrgan_state(), tmp_path / "4x.safetensors")
    upscaler = load_upscaler(tmp_path / "4x.safetensors")
    picture = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    assert upscaler.scale == 4
    assert upscaler(picture).shape == (132, 188, 3)
    assert np.array_equal(upscaler(picture), upscaler(picture))
    save_file({"a": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(RequestInvalid, match="no upscaler model"):
        load_upscaler(tmp_path / "other.safetensors")
