"""XLabs (and USO): attention processors that hold the LoRA; 1 is the image stream, 2 the text stream.

Of a single block's fused linear1 they change queries, keys and values only.
"""

from __future__ import annotations

from flux_core.catalog import ModelSpec
from flux_core.plan import Component
from flux_core.weights.lora.layers import layers_of
from flux_core.weights.lora.target import Named, Target, prefixed

_DOUBLE = {
    "img_attn.qkv": "qkv_lora1",
    "txt_attn.qkv": "qkv_lora2",
    "img_attn.proj": "proj_lora1",
    "txt_attn.proj": "proj_lora2",
}
_SINGLE = {"linear1": "qkv_lora", "linear2": "proj_lora"}


def names(spec: ModelSpec) -> Named:
    """Some files have the prefix that ComfyUI gives to everything."""
    yield from prefixed(("", "diffusion_model."), _names(spec))


def _names(spec: ModelSpec) -> Named:
    for layer in layers_of(spec)[Component.TRANSFORMER]:
        kind, _, rest = layer.name.partition(".")
        number, _, place = rest.partition(".")
        known = {"double_blocks": _DOUBLE, "single_blocks": _SINGLE}.get(kind, {})
        if place in known:
            rows = 3 * spec.transformer.hidden_size if place == "linear1" else layer.rows
            yield f"{kind}.{number}.processor.{known[place]}", Target(layer, (0, rows))
