"""diffusers, PEFT, ai-toolkit, SimpleTuner: `transformer.` and diffusers' module name, dots kept.

Some tools leave the prefix out (DiffSynth) or write another; old text-encoder LoRAs name the projections
as attention processors did. diffusers itself drops T5; here it counts.
"""

from __future__ import annotations

from flux_core.catalog import ModelSpec
from flux_core.plan import Component
from flux_core.weights.lora.target import Named, diffusers_names, own_names, prefixed

_PREFIXES = ("transformer.", "", "diffusion_model.", "base_model.model.", "base_model.model.transformer.")
_OLD_PROJECTIONS = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


def names(spec: ModelSpec) -> Named:
    """transformers 5 leaves `text_model.` out of CLIP's names."""
    yield from prefixed(_PREFIXES, diffusers_names(spec))
    for name, target in own_names(spec, Component.CLIP):
        yield from prefixed(("text_encoder.",), ((name, target), (name.removeprefix("text_model."), target)))
        parent, _, last = name.rpartition(".")
        if last in _OLD_PROJECTIONS:
            yield f"text_encoder.{parent}.{_OLD_PROJECTIONS[last]}", target
    yield from prefixed(("text_encoder_2.",), own_names(spec, Component.T5))
