"""Vision towers, Redux and the tiny autoencoder give what transformers and diffusers give.

Random small configurations in float32; the peer's own file, as it saves it, goes through our loaders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flux_core.catalog import ClipVisionConfig, ReduxConfig, SiglipConfig, Taef1Config
from flux_core.request import Precision
from flux_core.weights import extra_components as extra
from flux_core.weights.tensors import TensorSource
from tests.support.numerics import BACKENDS, make_backend, to_bf16
from tests.support.peers import TOLERANCE, bfloat16_distances, gap, normal, randomised, saved

# A side that patches do not fill, as 384 px and patches of 14 px.
SIGLIP = SiglipConfig(
    hidden_size=24, num_heads=3, mlp_hidden=40, num_layers=3, image_px=23, patch_px=5, has_head=True
)
CLIP = ClipVisionConfig(
    hidden_size=24, num_heads=3, mlp_hidden=40, num_layers=3, image_px=20, patch_px=5, projection_dim=10
)
TAEF1 = Taef1Config(width=12, num_blocks=2)


def gaps(
    load: Callable[..., Any], source: Any, like: Any, call: Callable[[Any, Any], Any], given: np.ndarray,
    expected: torch.Tensor,
) -> dict[str, float]:  # fmt: skip
    """Distance of each backend from the peer, after loading by shapes."""
    found: dict[str, float] = {}
    for name in BACKENDS:
        backend = make_backend(name)
        with backend.session():
            model = load(source, backend, Precision.FP32, like)
            found[name] = gap(backend.to_numpy(call(model, backend.from_numpy(given))), expected)
    return found


# MLX's CPU device rounds a convolution once more before its bias: up to 1.6 times as far was measured.
MLX_FURTHER = 1.8
QUIET = ("embedding", "out_proj", "fc2")  # keeps the stream so small that every eps is seen


def peer_siglip(quiet: tuple[str, ...] = ()) -> Any:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return randomised(
        SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=SIGLIP.hidden_size,
                intermediate_size=SIGLIP.mlp_hidden,
                num_hidden_layers=SIGLIP.num_layers,
                num_attention_heads=SIGLIP.num_heads,
                image_size=SIGLIP.image_px,
                patch_size=SIGLIP.patch_px,
            )
        ),
        quiet=quiet,
    )


def peer_clip_vision(quiet: tuple[str, ...] = ()) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return randomised(
        CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=CLIP.hidden_size,
                intermediate_size=CLIP.mlp_hidden,
                num_hidden_layers=CLIP.num_layers,
                num_attention_heads=CLIP.num_heads,
                image_size=CLIP.image_px,
                patch_size=CLIP.patch_px,
                projection_dim=CLIP.projection_dim,
            )
        ),
        quiet=quiet,
    )


def peer_redux() -> Any:
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

    return randomised(ReduxImageEncoder(redux_dim=24, txt_in_features=20))


@pytest.mark.parametrize(
    ("prefix", "quiet"),
    [("", ()), ("vision_model.", ()), ("", QUIET)],
    ids=["transformers 5", "published", "small enough to see every eps"],
)
def test_siglip_equals_transformers(tmp_path: Path, prefix: str, quiet: tuple[str, ...]) -> None:
    peer = peer_siglip(quiet)
    source = saved(peer, tmp_path, prefix)
    image = normal(2, 23, 23, 3)
    with torch.no_grad():
        expected = peer(torch.tensor(image).permute(0, 3, 1, 2))
    states = gaps(extra.load_siglip, source, SIGLIP, lambda m, x: m(x), image, expected.last_hidden_state)
    pooled = gaps(extra.load_siglip, source, SIGLIP, lambda m, x: m.pool(m(x)), image, expected.pooler_output)
    assert expected.last_hidden_state.shape[1] == SIGLIP.num_patches == 16
    assert max(*states.values(), *pooled.values()) < TOLERANCE, (states, pooled)


def test_siglip_without_its_head_gives_the_same_states_and_will_not_pool(tmp_path: Path) -> None:
    source = saved(peer_siglip(), tmp_path)
    backend = make_backend("torch")
    image = backend.from_numpy(normal(1, 23, 23, 3))
    headless = SiglipConfig(num_heads=3, image_px=23)
    with backend.session():
        whole = extra.load_siglip(source, backend, Precision.FP32, SIGLIP)
        bare = extra.load_siglip(source, backend, Precision.FP32, headless)
        assert np.array_equal(backend.to_numpy(bare(image)), backend.to_numpy(whole(image)))
        with pytest.raises(ValueError, match="without its pooling head"):
            bare.pool(bare(image))


def test_redux_equals_diffusers(tmp_path: Path) -> None:
    peer = peer_redux()
    states = normal(2, 16, 24)
    with torch.no_grad():
        expected = peer(torch.tensor(states)).image_embeds
    source = saved(peer, tmp_path)
    found = gaps(extra.load_redux, source, ReduxConfig(24, 20), lambda m, x: m(x), states, expected)
    told = gaps(extra.load_redux, source, None, lambda m, x: m(x), states, expected)
    assert max(*found.values(), *told.values()) < TOLERANCE, found


@pytest.mark.parametrize(
    ("is_bare", "quiet"),
    [(False, ()), (True, ()), (False, QUIET)],
    ids=["with vision_model.", "without", "small enough to see every eps"],
)
def test_clip_vision_equals_transformers(tmp_path: Path, is_bare: bool, quiet: tuple[str, ...]) -> None:
    peer = peer_clip_vision(quiet)
    image = normal(2, 20, 20, 3)
    with torch.no_grad():
        expected = peer(torch.tensor(image).permute(0, 3, 1, 2)).image_embeds
    extras = {
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
        "text_model.final_layer_norm.bias": torch.zeros(3),
        "text_projection.weight": torch.zeros(3, 3),
        "logit_scale": torch.zeros(()),
    }
    source = saved(peer, tmp_path, extras=extras, drop="vision_model." if is_bare else "")
    found = gaps(extra.load_clip_vision, source, CLIP, lambda m, x: m(x), image, expected)
    assert max(found.values()) < TOLERANCE, found


def test_taef1_equals_diffusers(tmp_path: Path) -> None:
    peer = peer_taef1()
    source = saved(peer, tmp_path)
    image, latents = normal(1, 16, 24, 3), 2 * normal(1, 3, 4, 16)
    with torch.no_grad():
        encoded = peer.encode(torch.tensor(image).permute(0, 3, 1, 2)).latents.permute(0, 2, 3, 1)
        decoded = peer.decode(torch.tensor(latents).permute(0, 3, 1, 2)).sample.permute(0, 2, 3, 1)
    for config in (TAEF1, None):
        found = gaps(extra.load_taef1_encoder, source, config, lambda m, x: m(x), image, encoded)
        assert max(found.values()) < TOLERANCE, found
        found = gaps(extra.load_taef1_decoder, source, config, lambda m, x: m(x), latents, decoded)
        assert max(found.values()) < TOLERANCE, found


@pytest.mark.parametrize("prefix", ["", "{}.", "taesd_{}."])
def test_taef1_reads_the_original_files_whose_pictures_lie_in_0_to_1(tmp_path: Path, prefix: str) -> None:
    encoder, decoder = randomised(original_encoder()), randomised(original_decoder())
    picture, latents = normal(1, 16, 24, 3) * 0.2 + 0.5, 2 * normal(1, 3, 4, 16)
    with torch.no_grad():
        encoded = encoder(torch.tensor(picture).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        decoded = decoder(torch.tensor(latents).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    source = saved(encoder, tmp_path, prefix.format("encoder"))
    found = gaps(extra.load_taef1_encoder, source, None, lambda m, x: m(2 * x - 1), picture, encoded)
    assert max(found.values()) < TOLERANCE, found
    source = saved(decoder, tmp_path, prefix.format("decoder"))
    found = gaps(extra.load_taef1_decoder, source, None, lambda m, x: (m(x) + 1) / 2, latents, decoded)
    assert max(found.values()) < TOLERANCE, found


def peer_taef1() -> Any:
    from diffusers import AutoencoderTiny

    widths = (TAEF1.width,) * 4
    blocks = (TAEF1.num_blocks,) * 3
    return randomised(
        AutoencoderTiny(
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            num_encoder_blocks=(1, *blocks),
            num_decoder_blocks=(*blocks, 1),
            latent_channels=16,
        )
    )


class OriginalBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        width = TAEF1.width
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x) + x)


class Clamp(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x / 3) * 3


def original_encoder() -> nn.Sequential:
    width = TAEF1.width
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), OriginalBlock()]
    for _ in range(3):
        layers += [nn.Conv2d(width, width, 3, padding=1, stride=2, bias=False)]
        layers += [OriginalBlock() for _ in range(TAEF1.num_blocks)]
    return nn.Sequential(*layers, nn.Conv2d(width, 16, 3, padding=1))


def original_decoder() -> nn.Sequential:
    width = TAEF1.width
    layers: list[nn.Module] = [Clamp(), nn.Conv2d(16, width, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        layers += [OriginalBlock() for _ in range(TAEF1.num_blocks)]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
    return nn.Sequential(*layers, OriginalBlock(), nn.Conv2d(width, 3, 3, padding=1))


def test_the_source_may_be_a_path_or_opened(tmp_path: Path) -> None:
    source: TensorSource = saved(peer_taef1(), tmp_path)
    backend = make_backend("torch")
    with backend.session():
        image = backend.from_numpy(normal(1, 8, 8, 3))
        outs = [
            backend.to_numpy(extra.load_taef1_encoder(given, backend, Precision.FP32)(image))
            for given in (source, tmp_path / "peer.safetensors")
        ]
    assert np.array_equal(*outs)


def first(x: torch.Tensor) -> torch.Tensor:
    """[B, H, W, C] -> [B, C, H, W]."""
    return x.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class InBfloat16:
    title: str
    peer: Callable[[], Any]
    load: Callable[..., Any]
    like: Any
    peer_call: Callable[[Any, torch.Tensor], torch.Tensor]
    given: np.ndarray


IN_BFLOAT16 = (
    InBfloat16(
        "SigLIP", peer_siglip, extra.load_siglip, SIGLIP,
        lambda peer, x: peer(first(x)).last_hidden_state, normal(2, 23, 23, 3),
    ),
    InBfloat16(
        "CLIP vision", peer_clip_vision, extra.load_clip_vision, CLIP,
        lambda peer, x: peer(first(x)).image_embeds, normal(8, 20, 20, 3),
    ),
    InBfloat16(
        "Redux", peer_redux, extra.load_redux, None,
        lambda peer, x: peer(x).image_embeds, normal(2, 16, 24),
    ),
    InBfloat16(
        "TAEF1 encoder", peer_taef1, extra.load_taef1_encoder, None,
        lambda peer, x: peer.encode(first(x)).latents.permute(0, 2, 3, 1), normal(2, 16, 24, 3),
    ),
    InBfloat16(
        "TAEF1 decoder", peer_taef1, extra.load_taef1_decoder, None,
        lambda peer, x: peer.decode(first(x)).sample.permute(0, 2, 3, 1), 2 * normal(2, 3, 4, 16),
    ),
)  # fmt: skip


@pytest.mark.parametrize("case", IN_BFLOAT16, ids=lambda case: case.title)
def test_in_bfloat16_torch_is_no_further_from_the_truth_than_the_peer(
    tmp_path: Path, case: InBfloat16
) -> None:
    given = to_bf16(case.given)

    def answer(backend: Any, source: TensorSource) -> Any:
        model = case.load(source, backend, Precision.BF16, case.like)
        return model(backend.cast(backend.from_numpy(given), Precision.BF16))

    found = bfloat16_distances(
        case.peer(), tmp_path, answer, lambda peer: case.peer_call(peer, torch.tensor(given).bfloat16())
    )
    assert found["torch"] < 1.01 * found["peer"], found
    assert found["mlx"] < MLX_FURTHER * found["peer"], found
