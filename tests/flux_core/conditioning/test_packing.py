"""Tokens: diffusers' order, back again without loss, and positions that rotate as published."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_core.conditioning.packing import pack, position_ids, rotary_table, unpack
from tests.support.numerics import BACKENDS, make_backend
from tests.support.oracle import OracleOps


@given(
    batch=st.integers(1, 3),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    channels=st.integers(1, 20),
)
def test_unpack_undoes_pack(batch: int, rows: int, columns: int, channels: int) -> None:
    latents = np.arange(batch * rows * columns * channels * 4).reshape(batch, 2 * rows, 2 * columns, channels)
    tokens = pack(OracleOps(), latents)
    assert tokens.shape == (batch, rows * columns, 4 * channels)
    assert np.array_equal(unpack(OracleOps(), tokens, 2 * rows, 2 * columns), latents)


@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9))
def test_unpack_undoes_pack_on_every_backend(name: str, rows: int, columns: int) -> None:
    backend = make_backend(name)
    latents = np.random.default_rng(0).standard_normal((1, 2 * rows, 2 * columns, 16), dtype=np.float32)
    tokens = pack(backend.ops, backend.from_numpy(latents))
    assert np.array_equal(backend.to_numpy(unpack(backend.ops, tokens, 2 * rows, 2 * columns)), latents)


@given(rows=st.integers(1, 6), columns=st.integers(1, 6))
def test_features_are_in_the_published_order(rows: int, columns: int) -> None:
    latents = np.random.default_rng(0).standard_normal((1, 2 * rows, 2 * columns, 16))
    tokens = pack(OracleOps(), latents)
    for r, c, channel, dy, dx in ((0, 0, 3, 1, 0), (rows - 1, columns - 1, 15, 0, 1)):
        assert (
            tokens[0, r * columns + c, channel * 4 + dy * 2 + dx]
            == latents[0, 2 * r + dy, 2 * c + dx, channel]
        )


@pytest.mark.parametrize(("height", "width"), [(4, 6), (16, 16), (2, 10)])
def test_equals_diffusers(height: int, width: int) -> None:
    from diffusers import FluxPipeline

    latents = torch.randn(2, 16, height, width)
    expected = FluxPipeline._pack_latents(latents, 2, 16, height, width)
    tokens = pack(OracleOps(), latents.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(tokens, expected.numpy())

    back = FluxPipeline._unpack_latents(expected, height * 8, width * 8, vae_scale_factor=8)
    assert np.array_equal(unpack(OracleOps(), tokens, height, width), back.permute(0, 2, 3, 1).numpy())

    ids = FluxPipeline._prepare_latent_image_ids(2, height // 2, width // 2, "cpu", torch.float32)
    assert np.array_equal(position_ids(0, height, width), ids.numpy())


def test_text_stands_at_the_origin_before_the_picture() -> None:
    ids = position_ids(3, 4, 6)
    assert ids.tolist() == [[0, 0, 0]] * 3 + [[0, r, c] for r in range(2) for c in range(3)]


def test_rotation_equals_diffusers() -> None:
    from diffusers.models.transformers.transformer_flux import FluxPosEmbed

    ids = position_ids(3, 128, 96)
    ids[-20:, 0] = 1  # a reference picture
    cos, sin = FluxPosEmbed(10_000, [16, 56, 56])(torch.tensor(ids, dtype=torch.float32))
    table = rotary_table(ids, (16, 56, 56), 10_000.0)
    assert table.shape == (len(ids), 64, 2)
    assert table.dtype == np.float32
    assert np.abs(table[..., 0] - cos.numpy()[:, ::2]).max() < 1e-6
    assert np.abs(table[..., 1] - sin.numpy()[:, ::2]).max() < 1e-6


def test_text_is_not_rotated() -> None:
    table = rotary_table(position_ids(5, 2, 2), (16, 56, 56), 10_000.0)
    assert (table[:5, :, 0] == 1).all()
    assert (table[:5, :, 1] == 0).all()
