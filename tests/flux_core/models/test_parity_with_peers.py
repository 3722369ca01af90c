"""The shared models give what diffusers and transformers give, on random small configurations.

The peer's own weights go through the key map into ours; both compute in float32. Every parameter is
drawn at random first, so that no bias is zero and no norm is one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flux_core.catalog import AutoencoderConfig, ClipTextConfig, T5Config, TransformerConfig
from flux_core.conditioning.packing import position_ids, rotary_table
from flux_core.models.autoencoder import Decoder, Encoder
from flux_core.models.clip import ClipText
from flux_core.models.t5 import T5Encoder, relative_buckets
from flux_core.models.transformer import Transformer
from flux_core.weights import synonyms
from flux_core.weights.diffusers_keys import ConvertedSource, autoencoder_recipes, transformer_recipes
from flux_core.weights.expected import check_strict, expected_shapes
from tests.support.numerics import BACKENDS
from tests.support.peers import TOLERANCE, gap, normal, ours, randomised, saved

SMALL = 0.08
TRANSFORMER: dict[str, Any] = {
    "hidden_size": 48,
    "num_heads": 3,
    "depth": 2,
    "depth_single": 3,
    "mlp_hidden": 192,
    "context_in_dim": 20,
    "vec_in_dim": 12,
    "axes_dim": (4, 6, 6),
}
AUTOENCODER = AutoencoderConfig(channels=16, channel_multipliers=(1, 2, 4, 4), norm_groups=8)
T5 = T5Config(vocab_size=60, d_model=32, num_heads=4, d_kv=6, d_ff=48, num_layers=3)
CLIP = ClipTextConfig(vocab_size=60, hidden_size=32, num_heads=4, mlp_hidden=64, num_layers=3)


@pytest.mark.parametrize(
    ("in_channels", "has_guidance", "gain"),
    [(64, True, 0.15), (64, False, 0.15), (128, True, 0.15), (64, True, SMALL)],
    ids=["dev", "schnell", "control", "small enough to see every eps"],
)
def test_transformer_equals_diffusers(
    tmp_path: Path, in_channels: int, has_guidance: bool, gain: float
) -> None:
    from diffusers import FluxTransformer2DModel

    config = TransformerConfig(in_channels=in_channels, has_guidance=has_guidance, **TRANSFORMER)
    peer = randomised(
        FluxTransformer2DModel(
            in_channels=in_channels,
            out_channels=64,
            num_layers=config.depth,
            num_single_layers=config.depth_single,
            attention_head_dim=config.hidden_size // config.num_heads,
            num_attention_heads=config.num_heads,
            joint_attention_dim=config.context_in_dim,
            pooled_projection_dim=config.vec_in_dim,
            guidance_embeds=has_guidance,
            axes_dims_rope=config.axes_dim,
        ),
        gain=gain,
        quiet=("to_q.", "to_k.", "add_q_proj.", "add_k_proj.") if gain == SMALL else (),
    )
    source = ConvertedSource(saved(peer, tmp_path), transformer_recipes(config))
    check_strict(expected_shapes(lambda ops, make: Transformer(ops, make, config)), source.names(), "peer")

    ids = position_ids(5, 8, 12)
    img, txt, vec = gain * normal(2, 24, in_channels), gain * normal(2, 5, 20), normal(2, 12)
    sigma = np.array([1.0, 0.37], np.float32)
    guidance = np.array([3.5, 1.0], np.float32) if has_guidance else None
    with torch.no_grad():
        expected = peer(
            hidden_states=torch.tensor(img),
            encoder_hidden_states=torch.tensor(txt),
            pooled_projections=torch.tensor(vec),
            timestep=torch.tensor(sigma),
            img_ids=torch.tensor(ids[5:], dtype=torch.float32),
            txt_ids=torch.tensor(ids[:5], dtype=torch.float32),
            guidance=None if guidance is None else torch.tensor(guidance),
            return_dict=False,
        )[0]
    pe = rotary_table(ids, config.axes_dim, config.theta)
    gaps = {
        name: gap(
            ours(
                name,
                source,
                lambda ops, make: Transformer(ops, make, config),
                img,
                txt,
                vec,
                sigma,
                guidance,
                pe,
            ),
            expected,
        )
        for name in BACKENDS
    }
    peak = float(expected.abs().max())
    assert max(gaps.values()) < TOLERANCE * min(1.0, peak), (gaps, peak)


@pytest.mark.parametrize(
    ("gain", "tolerance"),
    [(1.0, TOLERANCE), (SMALL, 10 * TOLERANCE)],  # small: means far above deviations cost digits
    ids=["", "small enough to see every eps"],
)
def test_autoencoder_equals_diffusers(tmp_path: Path, gain: float, tolerance: float) -> None:
    from diffusers import AutoencoderKL

    widths = tuple(AUTOENCODER.channels * m for m in AUTOENCODER.channel_multipliers)
    peer = randomised(
        AutoencoderKL(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=16,
            layers_per_block=2,
            norm_num_groups=AUTOENCODER.norm_groups,
            use_quant_conv=False,
            use_post_quant_conv=False,
            mid_block_add_attention=True,
        ),
        gain=gain,
    )
    source = ConvertedSource(saved(peer, tmp_path), autoencoder_recipes(AUTOENCODER))
    builds = (
        lambda ops, make: Encoder(ops, make, AUTOENCODER),
        lambda ops, make: Decoder(ops, make, AUTOENCODER),
    )
    check_strict(expected_shapes(*builds), source.names(), "peer")

    image, latents = gain * normal(1, 32, 48, 3), gain * normal(1, 4, 6, 16)
    with torch.no_grad():
        mean = peer.encode(torch.tensor(image).permute(0, 3, 1, 2)).latent_dist.mean.permute(0, 2, 3, 1)
        z = torch.tensor(latents).permute(0, 3, 1, 2) / AUTOENCODER.scale + AUTOENCODER.shift
        decoded = peer.decode(z).sample.permute(0, 2, 3, 1)
    encoded = (mean - AUTOENCODER.shift) * AUTOENCODER.scale
    gaps = {
        f"{name} {what}": gap(ours(name, source, build, given), expected)
        for name in BACKENDS
        for what, build, given, expected in (
            ("encode", builds[0], image, encoded),
            ("decode", builds[1], latents, decoded),
        )
    }
    assert max(gaps.values()) < tolerance, gaps


def test_t5_equals_transformers(tmp_path: Path) -> None:
    from transformers import T5Config as PeerConfig
    from transformers import T5EncoderModel

    peer = randomised(
        T5EncoderModel(
            PeerConfig(
                vocab_size=T5.vocab_size,
                d_model=T5.d_model,
                d_kv=T5.d_kv,
                d_ff=T5.d_ff,
                num_layers=T5.num_layers,
                num_heads=T5.num_heads,
                feed_forward_proj="gated-gelu",
            )
        )
    )
    source = synonyms.canonical(saved(peer, tmp_path), synonyms.t5_name)
    check_strict(expected_shapes(lambda ops, make: T5Encoder(ops, make, T5)), source.names(), "peer")

    ids = np.random.default_rng(0).integers(0, T5.vocab_size, (2, 150)).astype(np.int32)
    with torch.no_grad():
        expected = peer(torch.tensor(ids)).last_hidden_state
    gaps = {
        name: gap(
            ours(
                name,
                source,
                lambda ops, make: T5Encoder(ops, make, T5),
                ids,
                relative_buckets(ids.shape[1], T5),
            ),
            expected,
        )
        for name in BACKENDS
    }
    assert max(gaps.values()) < TOLERANCE, gaps


def test_clip_equals_transformers(tmp_path: Path) -> None:
    from transformers import CLIPTextConfig as PeerConfig
    from transformers import CLIPTextModel

    end = CLIP.vocab_size - 1
    peer = randomised(
        CLIPTextModel(
            PeerConfig(
                vocab_size=CLIP.vocab_size,
                hidden_size=CLIP.hidden_size,
                intermediate_size=CLIP.mlp_hidden,
                num_hidden_layers=CLIP.num_layers,
                num_attention_heads=CLIP.num_heads,
                max_position_embeddings=CLIP.max_positions,
                bos_token_id=end - 1,
                eos_token_id=end,
                pad_token_id=end,
            )
        )
    )
    source = synonyms.canonical(saved(peer, tmp_path), synonyms.clip_name)
    check_strict(expected_shapes(lambda ops, make: ClipText(ops, make, CLIP)), source.names(), "peer")

    ids = np.random.default_rng(0).integers(0, end - 1, (2, 77)).astype(np.int32)
    ends = np.array([12, 76], np.int32)
    for row, at in zip(ids, ends, strict=True):
        row[0], row[at:] = end - 1, end
    with torch.no_grad():
        expected = peer(torch.tensor(ids)).pooler_output
    positions = np.arange(77, dtype=np.int32)
    gaps = {
        name: gap(
            ours(name, source, lambda ops, make: ClipText(ops, make, CLIP), ids, positions, ends), expected
        )
        for name in BACKENDS
    }
    assert max(gaps.values()) < TOLERANCE, gaps


@pytest.mark.parametrize("length", [8, 32, 256, 512])
def test_t5_position_buckets_equal_transformers(length: int) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    position = torch.arange(length)
    expected = T5Attention._relative_position_bucket(
        position[None, :] - position[:, None], bidirectional=True, num_buckets=32, max_distance=128
    )
    assert np.array_equal(relative_buckets(length, T5Config()), expected.numpy())
