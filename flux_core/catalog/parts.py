"""The rows of what models share or take: encoders, autoencoders, LoRAs, ControlNets, adapters.

Text encoders come from an open repository in one file each, because it asks for no login and their sha256
are pinned alike by several independent projects; their tokenizers lie only in FLUX.1's own repositories.

Source: the repositories' file lists; formats.md's sizes; BFL docs for the sha256 of its own files.
"""

from __future__ import annotations

from typing import Any

from flux_core.catalog.configs import (
    ClipVisionConfig,
    ControlNetConfig,
    IpAdapterConfig,
    ReduxConfig,
    SiglipConfig,
    Taef1Config,
    TransformerConfig,
)
from flux_core.catalog.models import DEV_LICENCE
from flux_core.catalog.spec import Kind, PartSpec, RemoteFile
from flux_core.request import ControlKind

_SCHNELL_REPOSITORY = "black-forest-labs/FLUX.1-schnell"
_CLIP_REPOSITORY = "openai/clip-vit-large-patch14"
_DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"
_DEV_FAMILY = ("flux1-dev", "flux1-krea-dev")

T5_XXL = PartSpec(
    model="t5-xxl",
    title="T5 v1.1 XXL text encoder",
    licence="Apache-2.0",
    kind=Kind.TEXT_ENCODER,
    repository="comfyanonymous/flux_text_encoders",
    is_gated=True,  # the tokenizer's repository is
    downloads=(
        RemoteFile(
            "t5xxl_fp16.safetensors",
            size_bytes=9_787_841_024,
            sha256="6e480b09fae049a72d2a8c5fbccb8d3e92febeb233bbe9dfe7256958a9167635",
            place="text_encoder_2/model.safetensors",
        ),
        RemoteFile("tokenizer_2/tokenizer.json", repository=_SCHNELL_REPOSITORY),
        RemoteFile("tokenizer_2/tokenizer_config.json", repository=_SCHNELL_REPOSITORY),
        RemoteFile("tokenizer_2/special_tokens_map.json", repository=_SCHNELL_REPOSITORY),
        RemoteFile("tokenizer_2/spiece.model", repository=_SCHNELL_REPOSITORY),
    ),
)

CLIP_L = PartSpec(
    model="clip-l",
    title="CLIP ViT-L text encoder",
    licence="MIT",
    kind=Kind.TEXT_ENCODER,
    repository="comfyanonymous/flux_text_encoders",
    downloads=(
        RemoteFile(
            "clip_l.safetensors",
            size_bytes=246_144_152,
            sha256="660c6f5b1abae9dc498ac2d21e1347d2abdb0cf6c0c0c8576cd796491d9a6cdd",
            place="text_encoder/model.safetensors",
        ),
        RemoteFile("vocab.json", place="tokenizer/vocab.json", repository=_CLIP_REPOSITORY),
        RemoteFile("merges.txt", place="tokenizer/merges.txt", repository=_CLIP_REPOSITORY),
    ),
)

AE = PartSpec(
    model="ae",
    title="FLUX.1 autoencoder",
    licence="Apache-2.0",
    kind=Kind.AUTOENCODER,
    repository=_SCHNELL_REPOSITORY,
    is_gated=True,
    downloads=(
        RemoteFile(
            "ae.safetensors",
            size_bytes=335_304_388,
            sha256="afc8e28272cd15db3919bacdb6918ce9c1ed22e96cb12c4d5ed0fba823529e38",
        ),
    ),
)

SIGLIP = PartSpec(
    model="siglip-so400m",
    title="SigLIP so400m picture encoder",
    licence="Apache-2.0",
    kind=Kind.IMAGE_ENCODER,
    repository="black-forest-labs/FLUX.1-Redux-dev",
    is_gated=True,
    downloads=(RemoteFile("image_encoder/model.safetensors"), RemoteFile("image_encoder/config.json")),
    config=SiglipConfig(),
)

CLIP_VISION = PartSpec(
    model="clip-vision-l",
    title="CLIP ViT-L picture encoder",
    licence="MIT",
    kind=Kind.IMAGE_ENCODER,
    repository=_CLIP_REPOSITORY,
    downloads=(
        RemoteFile("model.safetensors", place="image_encoder/model.safetensors"),
        RemoteFile("config.json", place="image_encoder/config.json"),
    ),
    config=ClipVisionConfig(),
)

TAEF1 = PartSpec(
    model="taef1",
    title="TAEF1 small autoencoder",
    licence="MIT",
    kind=Kind.PREVIEW_AUTOENCODER,
    repository="madebyollin/taef1",
    downloads=(RemoteFile(_DIFFUSERS_FILE), RemoteFile("config.json")),
    meant_for=("preview",),
    config=Taef1Config(),
)

CANNY_LORA = PartSpec(
    model="flux1-canny-dev-lora",
    title="FLUX.1 Canny [dev] LoRA",
    licence=DEV_LICENCE,
    kind=Kind.LORA,
    repository="black-forest-labs/FLUX.1-Canny-dev-lora",
    is_gated=True,
    downloads=(
        RemoteFile(
            "flux1-canny-dev-lora.safetensors",
            sha256="8eaa21b9c43d5e7242844deb64b8cf22ae9010f813f955ca8c05f240b8a98f7e",
        ),
    ),
    works_with=_DEV_FAMILY,
    meant_for=("control",),
    num_steps=50,
    guidance=30.0,
    strength=0.85,
    kinds=(ControlKind.CANNY,),
)

DEPTH_LORA = PartSpec(
    model="flux1-depth-dev-lora",
    title="FLUX.1 Depth [dev] LoRA",
    licence=DEV_LICENCE,
    kind=Kind.LORA,
    repository="black-forest-labs/FLUX.1-Depth-dev-lora",
    is_gated=True,
    downloads=(
        RemoteFile(
            "flux1-depth-dev-lora.safetensors",
            sha256="1938b38ea0fdd98080fa3e48beb2bedfbc7ad102d8b65e6614de704a46d8b907",
        ),
    ),
    works_with=_DEV_FAMILY,
    meant_for=("control",),
    num_steps=50,
    guidance=10.0,
    strength=0.85,
    kinds=(ControlKind.DEPTH,),
)

REDUX = PartSpec(
    model="flux1-redux-dev",
    title="FLUX.1 Redux [dev]",
    licence=DEV_LICENCE,
    kind=Kind.ADAPTER,
    repository="black-forest-labs/FLUX.1-Redux-dev",
    is_gated=True,
    downloads=(
        RemoteFile(
            "flux1-redux-dev.safetensors",
            sha256="a1b3bdcb4bdc58ce04874b9ca776d61fc3e914bb6beab41efb63e4e2694dca45",
        ),
    ),
    needs=("siglip-so400m",),
    works_with=("flux1-dev", "flux1-krea-dev", "flux1-schnell"),
    meant_for=("vary",),
    guidance=2.5,
    config=ReduxConfig(),
)

_TINY = "tiny"


def _tiny(part: str, title: str, kind: Kind, file: str, **fields: Any) -> PartSpec:
    """A part that comes with the bundled family."""
    return PartSpec(
        model=f"{_TINY}-{part}",
        title=f"Tiny FLUX {title} (bundled)",
        licence="Apache-2.0",
        kind=kind,
        file=file,
        **fields,
    )


TINY_PARTS = (
    _tiny(
        "canny-lora",
        "Canny LoRA",
        Kind.LORA,
        "canny.safetensors",
        works_with=(_TINY,),
        meant_for=("control",),
        kinds=(ControlKind.CANNY,),
    ),
    _tiny(
        "depth-lora",
        "Depth LoRA",
        Kind.LORA,
        "depth.safetensors",
        works_with=(_TINY,),
        meant_for=("control",),
        kinds=(ControlKind.DEPTH,),
    ),
    _tiny(
        "redux",
        "Redux",
        Kind.ADAPTER,
        "redux.safetensors",
        needs=("tiny-siglip",),
        works_with=(_TINY,),
        meant_for=("vary",),
        config=ReduxConfig(image_dim=128, context_in_dim=256),
    ),
    _tiny(
        "siglip",
        "SigLIP picture encoder",
        Kind.IMAGE_ENCODER,
        "siglip.safetensors",
        works_with=(_TINY,),
        config=SiglipConfig(
            hidden_size=128, num_heads=4, mlp_hidden=512, num_layers=4, image_px=128, patch_px=16
        ),
    ),
    _tiny(
        "fast-decoder",
        "fast decoder",
        Kind.PREVIEW_AUTOENCODER,
        "fast.safetensors",
        works_with=(_TINY, "tiny-schnell", "tiny-fill", "tiny-kontext"),
        meant_for=("preview",),
        config=Taef1Config(width=32),
    ),
)


def _controlnet(
    model: str,
    title: str,
    repository: str,
    *kinds: ControlKind,
    file: str = "",
    config: ControlNetConfig | None = None,
) -> PartSpec:
    """A ControlNet's row; those without a file of their own name lie in diffusers' layout."""
    diffusers_files = (RemoteFile(_DIFFUSERS_FILE), RemoteFile("config.json"))
    return PartSpec(
        model=model,
        title=title,
        licence=DEV_LICENCE,
        kind=Kind.CONTROLNET,
        repository=repository,
        downloads=(RemoteFile(file),) if file else diffusers_files,
        works_with=_DEV_FAMILY,
        meant_for=("control",),
        strength=0.7,
        kinds=kinds,
        config=config,
    )


def _blocks(depth: int, depth_single: int) -> TransformerConfig:
    return TransformerConfig(depth=depth, depth_single=depth_single)


_XLABS = ControlNetConfig(transformer=_blocks(2, 0), is_pixel_hint=True)

CONTROLNETS = (
    _controlnet(
        "instantx-canny",
        "InstantX ControlNet Canny",
        "InstantX/FLUX.1-dev-Controlnet-Canny",
        ControlKind.CANNY,
    ),
    _controlnet("instantx-union", "InstantX ControlNet Union", "InstantX/FLUX.1-dev-Controlnet-Union"),
    _controlnet(
        "shakker-union-pro", "Shakker ControlNet Union Pro", "Shakker-Labs/FLUX.1-dev-ControlNet-Union-Pro"
    ),
    _controlnet(
        "shakker-union-pro-2",
        "Shakker ControlNet Union Pro 2.0",
        "Shakker-Labs/FLUX.1-dev-ControlNet-Union-Pro-2.0",
        config=ControlNetConfig(transformer=_blocks(6, 0)),
    ),
    _controlnet(
        "xlabs-canny-v3",
        "XLabs ControlNet Canny v3",
        "XLabs-AI/flux-controlnet-canny-v3",
        ControlKind.CANNY,
        file="flux-canny-controlnet-v3.safetensors",
        config=_XLABS,
    ),
    _controlnet(
        "xlabs-depth-v3",
        "XLabs ControlNet Depth v3",
        "XLabs-AI/flux-controlnet-depth-v3",
        ControlKind.DEPTH,
        file="flux-depth-controlnet-v3.safetensors",
        config=_XLABS,
    ),
    _controlnet(
        "xlabs-hed-v3",
        "XLabs ControlNet HED v3",
        "XLabs-AI/flux-controlnet-hed-v3",
        ControlKind.SOFT_EDGE,
        file="flux-hed-controlnet-v3.safetensors",
        config=_XLABS,
    ),
)

IP_ADAPTER = PartSpec(
    model="xlabs-ip-adapter",
    title="XLabs IP-Adapter",
    licence=DEV_LICENCE,
    kind=Kind.IP_ADAPTER,
    repository="XLabs-AI/flux-ip-adapter",
    downloads=(RemoteFile("ip_adapter.safetensors"),),
    needs=("clip-vision-l",),
    works_with=_DEV_FAMILY,
    meant_for=("vary",),
    config=IpAdapterConfig(),
)

IP_ADAPTER_V2 = PartSpec(
    model="xlabs-ip-adapter-v2",
    title="XLabs IP-Adapter v2",
    licence="Apache-2.0",
    kind=Kind.IP_ADAPTER,
    repository="XLabs-AI/flux-ip-adapter-v2",
    downloads=(RemoteFile("ip_adapter.safetensors"),),
    needs=("clip-vision-l",),
    works_with=_DEV_FAMILY,
    meant_for=("vary",),
)

ALL = (
    T5_XXL,
    CLIP_L,
    AE,
    SIGLIP,
    CLIP_VISION,
    TAEF1,
    CANNY_LORA,
    DEPTH_LORA,
    REDUX,
    *TINY_PARTS,
    *CONTROLNETS,
    IP_ADAPTER,
    IP_ADAPTER_V2,
)
