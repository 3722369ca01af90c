"""A whole family of FLUX.1 in small, in the true layouts: models, ControlNets, adapters, a control LoRA.

The weights are random, the sizes are such that diffusers can build every member, too. Models share text
encoders and autoencoder in a folder beside them, as the published ones do. Rows go into the catalog with
`install`, the files into a folder of models with `write_family`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors.numpy import load_file, save_file

from flux_core.catalog import (
    ClipVisionConfig,
    ControlNetConfig,
    IpAdapterConfig,
    Kind,
    ModelSpec,
    PartSpec,
    ReduxConfig,
    RemoteFile,
    SiglipConfig,
    Taef1Config,
    TransformerConfig,
)
from flux_core.models.clip_vision import ClipVision
from flux_core.models.controlnet import ControlNet
from flux_core.models.ip_adapter import IpAdapter
from flux_core.models.redux import Redux
from flux_core.models.siglip import SiglipVision
from flux_core.models.taef1 import Taef1Decoder, Taef1Encoder
from flux_core.models.transformer import Transformer
from flux_core.request import ControlKind, Task
from flux_core.sampling import preview
from flux_core.weights.diffusers_keys import controlnet_recipes, stacked_rows_of, to_diffusers
from flux_core.weights.expected import Build, expected_shapes
from tests.support import lora_files
from tests.support.tiny_random import MICRO, Tensors, draw, write_models_dir

SHARED = "micro-shared"
"""The folder of what the models share; no row of the catalog."""

SIZES = TransformerConfig(
    hidden_size=32, num_heads=2, depth=3, depth_single=3, mlp_hidden=128, context_in_dim=32, vec_in_dim=32,
    axes_dim=(4, 6, 6),
)  # fmt: skip
"""Four times the width between the MLP's matrices, the only factor that diffusers knows."""

SIGLIP = SiglipConfig(hidden_size=32, num_heads=4, mlp_hidden=40, num_layers=2, image_px=30, patch_px=7)
CLIP_VISION = ClipVisionConfig(
    hidden_size=32, num_heads=4, mlp_hidden=40, num_layers=2, image_px=28, patch_px=7, projection_dim=24
)

DEV = replace(
    MICRO,
    model="micro-dev",
    title="Micro FLUX dev",
    needs=(SHARED,),
    tasks=(Task.GENERATE, Task.TRANSFORM, Task.FILL, Task.UPSCALE, Task.CONTROL, Task.VARY),
    has_time_shift=True,
    redux="micro-redux",
    fast_decoder="micro-taef1",
    working_side_px=64,
    max_side_px=64,
    transformer=SIZES,
)
SCHNELL = replace(
    DEV,
    model="micro-schnell",
    title="Micro FLUX schnell",
    guidance=0.0,
    num_steps=4,
    has_time_shift=False,
    transformer=replace(SIZES, has_guidance=False),
)
LONG = replace(DEV, model="micro-long", title="Micro FLUX with long prompts", t5_tokens=512)
FILL = replace(
    DEV,
    model="micro-fill",
    title="Micro FLUX Fill",
    tasks=(Task.FILL,),
    redux="",
    transformer=replace(SIZES, in_channels=384),
)
CANNY = replace(
    DEV,
    model="micro-canny",
    title="Micro FLUX Canny",
    tasks=(Task.CONTROL,),
    control_kind=ControlKind.CANNY,
    redux="",
    transformer=replace(SIZES, in_channels=128),
)
DEPTH = replace(CANNY, model="micro-depth", title="Micro FLUX Depth", control_kind=ControlKind.DEPTH)
KONTEXT = replace(
    DEV,
    model="micro-kontext",
    title="Micro FLUX Kontext",
    tasks=(Task.EDIT, Task.GENERATE, Task.TRANSFORM, Task.FILL),
)
MODELS = (DEV, SCHNELL, LONG, FILL, CANNY, DEPTH, KONTEXT)

_FILE = (RemoteFile("part.safetensors"),)


def _part(model: str, kind: Kind, **fields: Any) -> PartSpec:
    return PartSpec(model=model, title=model, licence="Apache-2.0", kind=kind, downloads=_FILE, **fields)


PARTS = (
    _part("micro-siglip", Kind.IMAGE_ENCODER, config=SIGLIP),
    _part("micro-redux", Kind.ADAPTER, needs=("micro-siglip",), config=ReduxConfig(32, 32)),
    _part("micro-clip-vision", Kind.IMAGE_ENCODER, config=CLIP_VISION),
    _part("micro-ip-adapter", Kind.IP_ADAPTER, needs=("micro-clip-vision",)),
    _part("micro-taef1", Kind.PREVIEW_AUTOENCODER, config=Taef1Config(width=8, num_blocks=1)),
    _part("micro-depth-net", Kind.CONTROLNET, kinds=(ControlKind.DEPTH,), strength=0.7),
    _part("micro-canny-lora", Kind.LORA, kinds=(ControlKind.CANNY,), strength=0.85),
)

IP_ADAPTER = IpAdapterConfig(
    num_tokens=4, image_dim=24, context_in_dim=32, hidden_size=32, num_heads=2, depth=SIZES.depth
)
PLAIN = ControlNetConfig(replace(SIZES, depth=2, depth_single=2))
UNION = ControlNetConfig(replace(SIZES, depth=2, depth_single=0), num_modes=7)
XLABS = ControlNetConfig(replace(SIZES, depth=2, depth_single=0), is_pixel_hint=True)
CONTROLNETS: Mapping[str, ControlNetConfig] = {"plain": PLAIN, "union": UNION, "xlabs": XLABS}
"""Files in the folder `controlnets`; `plain` is also what the row micro-depth-net holds."""

INPAINTING = ControlNetConfig(PLAIN.transformer, condition_channels=68)


class Patcher(Protocol):
    """What pytest's monkeypatch does here."""

    def setitem(self, dic: Any, name: Any, value: Any) -> None: ...


def install(monkeypatch: Patcher) -> None:
    """Puts the family into the catalog."""
    from flux_core import catalog

    for spec in MODELS:
        monkeypatch.setitem(catalog.MODELS, spec.model, spec)
    for part in PARTS:
        monkeypatch.setitem(catalog.PARTS, part.model, part)


def write_family(base: Path) -> Path:
    """Writes every member; returns `base`, for an engine's models_dirs."""
    write_models_dir(base, replace(DEV, model=SHARED), seed=1)
    (base / SHARED / DEV.files.transformer).unlink()
    _without_deviation(base / SHARED / DEV.files.autoencoder)
    colours = np.random.default_rng(2).normal(0, 0.1, (DEV.autoencoder.latent_channels + 1, 3))
    for number, spec in enumerate(MODELS):
        _save(base / spec.model / spec.files.transformer, transformer_weights(spec, seed=10 + number))
        preview.write(base / spec.model, colours.astype(np.float32))
    for name, weights in parts().items():
        _save(base / name / "part.safetensors", weights)
    for name, config in CONTROLNETS.items():
        _save(base / "controlnets" / f"{name}.safetensors", controlnet_file(config))
    _save(base / "controlnets" / "inpainting.safetensors", controlnet_file(INPAINTING))
    _save(base / "loras" / "canny-control.safetensors", control_lora())
    _save(base / "loras" / "style.safetensors", style_lora())
    return base


def transformer_weights(spec: ModelSpec, seed: int) -> Tensors:
    return _drawn(lambda ops, make: Transformer(ops, make, spec.transformer), seed)


def parts() -> dict[str, Tensors]:
    """Row -> its tensors, by the names of the published files."""
    taef1 = Taef1Config(width=8, num_blocks=1)
    return {
        "micro-siglip": _drawn(lambda ops, make: SiglipVision(ops, make, SIGLIP), 30),
        "micro-redux": _drawn(lambda ops, make: Redux(ops, make, ReduxConfig(32, 32)), 31),
        "micro-clip-vision": _drawn(lambda ops, make: ClipVision(ops, make, CLIP_VISION), 32),
        "micro-ip-adapter": _drawn(lambda ops, make: IpAdapter(ops, make, IP_ADAPTER), 33),
        "micro-taef1": {
            **_drawn(lambda ops, make: Taef1Encoder(ops, make, taef1), 34),
            **_drawn(lambda ops, make: Taef1Decoder(ops, make, taef1), 35),
        },
        "micro-depth-net": controlnet_file(PLAIN),
        "micro-canny-lora": control_lora(),
    }


def controlnet_weights(config: ControlNetConfig) -> Tensors:
    """By our names, which are XLabs'. What looks at pixels is loud, or eight convolutions leave nothing."""
    seed = 40 + 2 * config.num_modes + config.is_pixel_hint
    weights = _drawn(lambda ops, make: ControlNet(ops, make, config), seed)
    return {name: (2.2 * w if name.startswith("input_hint") else w) for name, w in weights.items()}


def controlnet_file(config: ControlNetConfig) -> Tensors:
    """By the names of its own kind of file: XLabs' or diffusers'."""
    weights = controlnet_weights(config)
    return weights if config.is_pixel_hint else controlnet_as_diffusers(config)


def controlnet_as_diffusers(config: ControlNetConfig) -> Tensors:
    weights, recipes = controlnet_weights(config), controlnet_recipes(config)
    theirs = to_diffusers(weights, recipes, stacked_rows_of(config.transformer))
    return theirs | {name: weight for name, weight in weights.items() if name not in recipes}


def control_lora() -> Tensors:
    """In the layout of FLUX.1 Canny dev LoRA, for DEV."""
    return {name: 0.3 * array if "lora" in name else array for name, array in lora_files.control(DEV).items()}


def style_lora() -> Tensors:
    """In kohya's layout, for two layers of DEV."""
    return lora_files.kohya(DEV, ("double_blocks.0.img_attn.qkv", "single_blocks.1.linear1"))


def _drawn(build: Build, seed: int) -> Tensors:
    random = np.random.default_rng(seed)
    return {name: draw(name, shape, random) for name, shape in expected_shapes(build).items()}


def _save(path: Path, weights: Tensors) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, path)


def _without_deviation(path: Path) -> None:
    """Peers draw a sample of what the encoder says; ours takes its mean. Here both are the same."""
    weights = load_file(path)
    latents = DEV.autoencoder.latent_channels
    weights["encoder.conv_out.weight"][latents:] = 0.0
    weights["encoder.conv_out.bias"][latents:] = -30.0  # logarithm of the variance, as low as peers allow
    save_file(weights, path)
