"""sd-scripts (kohya): `lora_unet_` and BFL's name; `lora_te1_` (CLIP) or `lora_te3_` (T5) and transformers'.

diffusers' converter loses img_in, txt_in, the embedders and final_layer of these files; here they count.
"""

from __future__ import annotations

from flux_core.catalog import ModelSpec
from flux_core.plan import Component
from flux_core.weights.lora.target import Named, diffusers_names, own_names, prefixed, underscored


def names(spec: ModelSpec) -> Named:
    """Dots are underscores everywhere; some tools put diffusers' names behind the same prefix."""
    transformer = own_names(spec, Component.TRANSFORMER)
    yield from prefixed(("lora_unet_",), underscored(transformer))
    yield from prefixed(("lora_unet_",), underscored(diffusers_names(spec)))
    yield from prefixed(("lora_te1_", "lora_te_"), underscored(own_names(spec, Component.CLIP)))
    yield from prefixed(("lora_te3_",), underscored(own_names(spec, Component.T5)))
