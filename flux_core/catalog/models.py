"""The rows of whole models: the bundled family, and the seven that Black Forest Labs has published.

Defaults follow BFL's own command line where the models differ; sha256 are those of BFL's documentation,
but for Krea: there it lists dev's, which is a mistake, so none stands here.

Source: black-forest-labs/flux (util.py, docs/), diffusers pipelines (examples in docstrings).
"""

from __future__ import annotations

from dataclasses import replace

from flux_core.catalog.configs import AutoencoderConfig, ClipTextConfig, T5Config, TransformerConfig
from flux_core.catalog.spec import ModelFiles, ModelSpec, RemoteFile
from flux_core.request import ControlKind, Task

DEV_LICENCE = "FLUX.1 [dev] Non-Commercial License"

_BASIC = (Task.GENERATE, Task.TRANSFORM, Task.FILL, Task.UPSCALE)
_ADAPTABLE = (*_BASIC, Task.CONTROL, Task.VARY)
"""With what others have published for dev: ControlNets, control LoRAs, Redux, IP-Adapters."""

_SHARED = ("t5-xxl", "clip-l", "ae")

TINY = ModelSpec(
    model="tiny",
    title="Tiny FLUX (bundled)",
    licence="Apache-2.0",
    tasks=_ADAPTABLE,
    redux="tiny-redux",
    fast_decoder="tiny-fast-decoder",
    control_loras=("tiny-canny-lora", "tiny-depth-lora"),
    num_steps=20,
    guidance=2.0,
    t5_tokens=32,
    clip_tokens=32,
    has_time_shift=False,
    working_side_px=256,
    max_side_px=512,
    transformer=TransformerConfig(
        hidden_size=256,
        num_heads=4,
        depth=3,
        depth_single=6,
        mlp_hidden=1024,
        context_in_dim=256,
        vec_in_dim=256,
        axes_dim=(8, 28, 28),
    ),
    autoencoder=AutoencoderConfig(channels=32, shift=-0.2631, scale=0.4672),
    t5=T5Config(vocab_size=2048, d_model=256, num_heads=4, d_kv=64, d_ff=512, num_layers=4),
    clip=ClipTextConfig(vocab_size=2048, hidden_size=256, num_heads=4, mlp_hidden=1024, num_layers=2),
)


def _tool(
    tool: str, *tasks: Task, guidance: float, num_steps: int = TINY.num_steps, channels: int = 0
) -> ModelSpec:
    """A member of the bundled family that is a low-rank change of its base."""
    name = tool.lower()
    return replace(
        TINY,
        model=f"tiny-{name}",
        title=f"Tiny FLUX {tool} (bundled)",
        tasks=tasks,
        needs=(TINY.model,),
        lora=f"{name}.safetensors",
        lora_channels=channels,
        redux="",
        control_loras=(),
        num_steps=num_steps,
        guidance=guidance,
    )


TINY_SCHNELL = _tool("Schnell", *_BASIC, num_steps=4, guidance=3.5)
TINY_FILL = _tool("Fill", Task.FILL, guidance=2.0, channels=384)
TINY_KONTEXT = _tool("Kontext", Task.EDIT, guidance=2.0)

SCHNELL = ModelSpec(
    model="flux1-schnell",
    title="FLUX.1 [schnell]",
    licence="Apache-2.0",
    repository="black-forest-labs/FLUX.1-schnell",
    is_gated=True,
    downloads=(
        RemoteFile(
            "flux1-schnell.safetensors",
            sha256="9403429e0052277ac2a87ad800adece5481eecefd9ed334e1f348723621d2a0a",
        ),
    ),
    needs=_SHARED,
    tasks=_ADAPTABLE,
    num_steps=4,
    guidance=0.0,
    t5_tokens=256,
    has_time_shift=False,
    transformer=TransformerConfig(has_guidance=False),
    files=ModelFiles(transformer="flux1-schnell.safetensors"),
)

DEV = ModelSpec(
    model="flux1-dev",
    title="FLUX.1 [dev]",
    licence=DEV_LICENCE,
    repository="black-forest-labs/FLUX.1-dev",
    is_gated=True,
    downloads=(
        RemoteFile(
            "flux1-dev.safetensors",
            size_bytes=23_802_932_552,
            sha256="4610115bb0c89560703c892c59ac2742fa821e60ef5871b33493ba544683abd7",
        ),
    ),
    needs=_SHARED,
    tasks=_ADAPTABLE,
    num_steps=28,
    guidance=3.5,
    t5_tokens=512,
    files=ModelFiles(transformer="flux1-dev.safetensors"),
)

KREA = ModelSpec(
    model="flux1-krea-dev",
    title="FLUX.1 Krea [dev]",
    licence=DEV_LICENCE,
    repository="black-forest-labs/FLUX.1-Krea-dev",
    is_gated=True,
    downloads=(RemoteFile("flux1-krea-dev.safetensors"),),
    needs=_SHARED,
    tasks=_ADAPTABLE,
    num_steps=28,
    guidance=4.5,
    t5_tokens=512,
    files=ModelFiles(transformer="flux1-krea-dev.safetensors"),
)

FILL = ModelSpec(
    model="flux1-fill-dev",
    title="FLUX.1 Fill [dev]",
    licence=DEV_LICENCE,
    repository="black-forest-labs/FLUX.1-Fill-dev",
    is_gated=True,
    downloads=(
        RemoteFile(
            "flux1-fill-dev.safetensors",
            sha256="03e289f530df51d014f48e675a9ffa2141bc003259bf5f25d75b957e920a41ca",
        ),
    ),
    needs=_SHARED,
    tasks=(Task.FILL,),
    redux="",
    num_steps=50,
    guidance=30.0,
    t5_tokens=512,
    transformer=TransformerConfig(in_channels=384),
    files=ModelFiles(transformer="flux1-fill-dev.safetensors"),
)

CANNY = ModelSpec(
    model="flux1-canny-dev",
    title="FLUX.1 Canny [dev]",
    licence=DEV_LICENCE,
    repository="black-forest-labs/FLUX.1-Canny-dev",
    is_gated=True,
    downloads=(
        RemoteFile(
            "flux1-canny-dev.safetensors",
            sha256="996876670169591cb412b937fbd46ea14cbed6933aef17c48a2dcd9685c98cdb",
        ),
    ),
    needs=_SHARED,
    tasks=(Task.CONTROL,),
    control_kind=ControlKind.CANNY,
    redux="",
    num_steps=50,
    guidance=30.0,
    t5_tokens=512,
    transformer=TransformerConfig(in_channels=128),
    files=ModelFiles(transformer="flux1-canny-dev.safetensors"),
)

DEPTH = ModelSpec(
    model="flux1-depth-dev",
    title="FLUX.1 Depth [dev]",
    licence=DEV_LICENCE,
    repository="black-forest-labs/FLUX.1-Depth-dev",
    is_gated=True,
    downloads=(
        RemoteFile(
            "flux1-depth-dev.safetensors",
            sha256="41360d1662f44ca45bc1b665fe6387e91802f53911001630d970a4f8be8dac21",
        ),
    ),
    needs=_SHARED,
    tasks=(Task.CONTROL,),
    control_kind=ControlKind.DEPTH,
    redux="",
    num_steps=50,
    guidance=10.0,
    t5_tokens=512,
    transformer=TransformerConfig(in_channels=128),
    files=ModelFiles(transformer="flux1-depth-dev.safetensors"),
)

KONTEXT = ModelSpec(
    model="flux1-kontext-dev",
    title="FLUX.1 Kontext [dev]",
    licence=DEV_LICENCE,
    repository="black-forest-labs/FLUX.1-Kontext-dev",
    is_gated=True,
    downloads=(
        RemoteFile(
            "flux1-kontext-dev.safetensors",
            sha256="843a26dc765d3105dba081c30bce7b14c65b0988f9e8d14e9fbc8856a6deebd5",
        ),
    ),
    needs=_SHARED,
    tasks=(Task.EDIT, Task.GENERATE, Task.TRANSFORM, Task.FILL),
    num_steps=30,
    guidance=2.5,
    t5_tokens=512,
    files=ModelFiles(transformer="flux1-kontext-dev.safetensors"),
)

ALL = (TINY, TINY_SCHNELL, TINY_FILL, TINY_KONTEXT, DEV, SCHNELL, KREA, FILL, CANNY, DEPTH, KONTEXT)
