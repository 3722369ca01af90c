"""Every published model at full size, counted without its memory.

Our definitions are built by the recorder; the peers, where there are any, on torch's meta device. Names
and shapes must agree one by one, and the sums with the published numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from flux_core.catalog import (
    AutoencoderConfig,
    ClipTextConfig,
    ClipVisionConfig,
    ControlNetConfig,
    IpAdapterConfig,
    ReduxConfig,
    SiglipConfig,
    T5Config,
    Taef1Config,
    TransformerConfig,
)
from flux_core.models.autoencoder import Decoder, Encoder
from flux_core.models.clip import ClipText
from flux_core.models.clip_vision import ClipVision, clip_vision_config
from flux_core.models.controlnet import ControlNet, controlnet_config
from flux_core.models.ip_adapter import IpAdapter, ip_adapter_config
from flux_core.models.redux import Redux, redux_config
from flux_core.models.siglip import SiglipVision, siglip_config
from flux_core.models.t5 import T5Encoder
from flux_core.models.taef1 import Taef1Decoder, Taef1Encoder, taef1_config
from flux_core.models.transformer import Transformer
from flux_core.weights import synonyms
from flux_core.weights.diffusers_keys import ConvertedSource, autoencoder_recipes, transformer_recipes
from flux_core.weights.expected import Build, check_strict, expected_shapes
from flux_core.weights.extra_components import controlnet_source
from flux_core.weights.tensors import RawTensor, TensorInfo, TensorSource

pytestmark = pytest.mark.filterwarnings(
    "ignore:`FluxPosEmbed` is deprecated:FutureWarning"  # diffusers' ControlNet warns of its own import
)
DEV = TransformerConfig()
SCHNELL = TransformerConfig(has_guidance=False)
FILL = TransformerConfig(in_channels=384)
CONTROL = TransformerConfig(in_channels=128)
SIGLIP = SiglipConfig(has_head=True)
CLIP_VISION = ClipVisionConfig()


class ShapesOnly:
    """A TensorSource that knows names and shapes."""

    metadata: Mapping[str, str] = {}

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._names = {name: TensorInfo("BF16", shape) for name, shape in shapes.items()}

    def names(self) -> Mapping[str, TensorInfo]:
        return self._names

    def read(self, name: str) -> RawTensor:
        raise AssertionError(f"{name} was read, although only its shape is known")


def of(cls: Any, config: Any) -> Build:
    return lambda ops, make: cls(ops, make, config)


def controlnet(depth: int, depth_single: int, **others: Any) -> ControlNetConfig:
    has_guidance = others.pop("has_guidance", True)
    blocks = TransformerConfig(depth=depth, depth_single=depth_single, has_guidance=has_guidance)
    return ControlNetConfig(blocks, **others)


INSTANTX_CANNY = controlnet(5, 10)
UNION = controlnet(5, 10, num_modes=10)
UNION_PRO_2 = controlnet(6, 0)
INPAINTING = controlnet(6, 0, condition_channels=68)
XLABS = controlnet(2, 0, is_pixel_hint=True)


@dataclass(frozen=True)
class Published:
    """A published model: what builds it, and how many tensors and parameters it has."""

    title: str
    builds: tuple[Build, ...]
    tensors: int
    parameters: int


def one(title: str, cls: Any, config: Any, tensors: int, parameters: int) -> Published:
    return Published(title, (of(cls, config),), tensors, parameters)


PUBLISHED = (
    one("schnell", Transformer, SCHNELL, 776, 11_891_178_560),
    one("dev, Krea, Kontext", Transformer, DEV, 780, 11_901_408_320),
    one("Fill", Transformer, FILL, 780, 11_902_391_360),
    one("Canny, Depth", Transformer, CONTROL, 780, 11_901_604_928),
    Published("ae", (of(Encoder, AutoencoderConfig()), of(Decoder, AutoencoderConfig())), 244, 83_819_683),
    one("T5-XXL", T5Encoder, T5Config(), 219, 4_762_310_656),
    one("CLIP-L", ClipText, ClipTextConfig(), 196, 123_060_480),
    one("SigLIP with its head", SiglipVision, SIGLIP, 448, 428_225_600),
    one("SigLIP as Redux reads it", SiglipVision, SiglipConfig(), 437, 412_987_248),
    one("Redux", Redux, ReduxConfig(), 4, 64_503_808),
    one("TAEF1 encoder", Taef1Encoder, Taef1Config(), 67, 1_229_456),
    one("TAEF1 decoder", Taef1Decoder, Taef1Config(), 67, 1_229_443),
    one("CLIP ViT-L/14 vision", ClipVision, CLIP_VISION, 392, 303_966_208),
    one("XLabs IP-Adapter, 4 tokens", IpAdapter, IpAdapterConfig(), 80, 490_874_880),
    one("XLabs IP-Adapter, 16 tokens", IpAdapter, IpAdapterConfig(num_tokens=16), 80, 528_672_768),
    one("InstantX Canny", ControlNet, INSTANTX_CANNY, 248, 3_301_925_888),
    one("InstantX and Shakker Union", ControlNet, UNION, 249, 3_301_956_608),
    one("Shakker Union Pro 2.0", ControlNet, UNION_PRO_2, 174, 2_140_876_800),
    one("inpainting ControlNet", ControlNet, INPAINTING, 174, 2_140_889_088),
    one("XLabs ControlNet", ControlNet, XLABS, 86, 743_807_280),
)


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda published: published.title)
def test_every_published_model_has_its_published_number_of_parameters(published: Published) -> None:
    shapes = expected_shapes(*published.builds)
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    assert (len(shapes), total) == (published.tensors, published.parameters)


def meta(make: Callable[[], Any]) -> ShapesOnly:
    """A peer's names and shapes, without its memory."""
    with torch.device("meta"):
        return ShapesOnly({name: tuple(p.shape) for name, p in make().state_dict().items()})


def peer_transformer(config: TransformerConfig) -> Any:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        in_channels=config.in_channels, out_channels=64, guidance_embeds=config.has_guidance
    )


@pytest.mark.parametrize("config", [SCHNELL, DEV, FILL, CONTROL], ids=["schnell", "dev", "Fill", "Control"])
def test_a_transformer_of_diffusers_has_every_tensor_of_ours(config: TransformerConfig) -> None:
    theirs = meta(lambda: peer_transformer(config))
    assert len(theirs.names()) == (1160 if config.has_guidance else 1156)
    source = ConvertedSource(theirs, transformer_recipes(config))
    check_strict(expected_shapes(of(Transformer, config)), source.names(), "peer")


def test_the_autoencoder_of_diffusers_has_every_tensor_of_ours() -> None:
    from diffusers import AutoencoderKL

    theirs = meta(
        lambda: AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=16,
            layers_per_block=2,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    )
    config = AutoencoderConfig()
    source = ConvertedSource(theirs, autoencoder_recipes(config))
    check_strict(expected_shapes(of(Encoder, config), of(Decoder, config)), source.names(), "peer")


@pytest.mark.parametrize(
    "config",
    [INSTANTX_CANNY, UNION, UNION_PRO_2, XLABS, controlnet(4, 0, has_guidance=False)],
    ids=["InstantX Canny", "Union", "Union Pro 2.0", "XLabs", "without guidance"],
)
def test_a_controlnet_of_diffusers_tells_its_configuration(config: ControlNetConfig) -> None:
    theirs = meta(lambda: peer_controlnet(config))
    assert controlnet_config(theirs.names()) == config
    expected = expected_shapes(of(ControlNet, config))
    check_strict(expected, controlnet_source(theirs, config).names(), "peer")
    # and so does the same file in BFL's spelling
    assert controlnet_config(ShapesOnly(expected).names()) == config


def peer_controlnet(config: ControlNetConfig) -> Any:
    from diffusers import FluxControlNetModel

    options: dict[str, Any] = {"num_mode": config.num_modes} if config.num_modes else {}
    if config.is_pixel_hint:
        options |= {"conditioning_embedding_channels": 16, "patch_size": 2}
    return FluxControlNetModel(
        num_layers=config.transformer.depth,
        num_single_layers=config.transformer.depth_single,
        guidance_embeds=config.transformer.has_guidance,
        **options,
    )


def test_an_inpainting_controlnet_tells_that_it_sees_a_mask() -> None:
    shapes = expected_shapes(of(ControlNet, INPAINTING))
    assert shapes["controlnet_x_embedder.weight"] == (3072, 68)
    assert controlnet_config(ShapesOnly(shapes).names()) == INPAINTING


def peer_t5() -> Any:
    from transformers import T5Config as PeerConfig
    from transformers import T5EncoderModel

    return T5EncoderModel(
        PeerConfig(
            vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
            feed_forward_proj="gated-gelu",
        )
    )  # fmt: skip


def peer_clip_text() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    )


def peer_siglip() -> Any:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16,
            image_size=384, patch_size=14,
        )
    )  # fmt: skip


def peer_clip_vision() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
            image_size=224, patch_size=14, projection_dim=768,
        )
    )  # fmt: skip


def peer_redux() -> Any:
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

    return ReduxImageEncoder()


@pytest.mark.parametrize(
    ("make", "rename", "build"),
    [
        (peer_t5, synonyms.t5_name, of(T5Encoder, T5Config())),
        (peer_clip_text, synonyms.clip_name, of(ClipText, ClipTextConfig())),
        (peer_siglip, synonyms.siglip_name, of(SiglipVision, SIGLIP)),
        (peer_siglip, synonyms.siglip_states_name, of(SiglipVision, SiglipConfig())),
        (peer_clip_vision, synonyms.clip_vision_name, of(ClipVision, CLIP_VISION)),
        (peer_redux, synonyms.redux_name, of(Redux, ReduxConfig())),
    ],
    ids=["T5", "CLIP text", "SigLIP", "SigLIP for Redux", "CLIP vision", "Redux"],
)
def test_an_encoder_of_transformers_has_every_tensor_of_ours(
    make: Callable[[], Any], rename: synonyms.Rename, build: Build
) -> None:
    source = synonyms.canonical(meta(make), rename)
    check_strict(expected_shapes(build), source.names(), "peer")


def test_the_tiny_autoencoder_of_diffusers_holds_both_of_our_halves() -> None:
    from diffusers import AutoencoderTiny

    theirs = meta(lambda: AutoencoderTiny(latent_channels=16))
    assert len(theirs.names()) == 134
    halves: list[tuple[synonyms.Rename, Build]] = [
        (synonyms.taef1_encoder_name, of(Taef1Encoder, Taef1Config())),
        (synonyms.taef1_decoder_name, of(Taef1Decoder, Taef1Config())),
    ]
    for rename, build in halves:
        source = synonyms.canonical(theirs, rename)
        check_strict(expected_shapes(build), source.names(), "peer")
        assert taef1_config(source.names()) == Taef1Config()


@pytest.mark.parametrize(
    ("build", "tell", "config"),
    [
        (of(SiglipVision, SIGLIP), lambda names: siglip_config(names, SIGLIP), SIGLIP),
        (of(ClipVision, CLIP_VISION), clip_vision_config, CLIP_VISION),
        (of(Redux, ReduxConfig()), redux_config, ReduxConfig()),
        (of(IpAdapter, IpAdapterConfig()), ip_adapter_config, IpAdapterConfig()),
        (
            of(IpAdapter, IpAdapterConfig(num_tokens=16)),
            ip_adapter_config,
            replace(IpAdapterConfig(), num_tokens=16),
        ),
    ],
    ids=["SigLIP", "CLIP vision", "Redux", "IP-Adapter", "IP-Adapter of 16 tokens"],
)
def test_the_published_shapes_tell_the_published_configuration(
    build: Build, tell: Callable[[Mapping[str, TensorInfo]], Any], config: Any
) -> None:
    source: TensorSource = ShapesOnly(expected_shapes(build))
    assert tell(source.names()) == config
