"""What mflux calls the tensors of FLUX.1, in the names of the diffusers and Hugging Face folders.

mflux follows those folders but for a few modules; with these put right, the recipes and synonyms for
published folders do the rest.

Source: filipstrand/mflux, models/flux/model.
"""

from __future__ import annotations

import re

from flux_core.weights.tensors import TensorSource

_METADATA = "mflux_version"
_MARKS = re.compile(r"(?:^|\.)(?:t5_blocks\.0|conv_in\.conv2d|ff\.linear1)\.")
_COPIED_BIAS = re.compile(r"t5_blocks\.(?!0\.)\d+\..*\.relative_attention_bias\.")
_RULES = (
    (re.compile(r"^t5_blocks\.(\d+)\.attention\."), r"encoder.block.\1.layer.0."),
    (re.compile(r"^t5_blocks\.(\d+)\.ff\."), r"encoder.block.\1.layer.1."),
    (re.compile(r"^final_layer_norm\."), "encoder.final_layer_norm."),
    (re.compile(r"\.(ff|ff_context)\.linear1\."), r".\1.net.0.proj."),
    (re.compile(r"\.(ff|ff_context)\.linear2\."), r".\1.net.2."),
    (re.compile(r"\.(conv_in|conv_out)\.conv2d\."), r".\1."),
    (re.compile(r"\.conv_norm_out\.norm\."), ".conv_norm_out."),
)


def is_mflux(source: TensorSource) -> bool:
    """Whether mflux saved this: by its metadata, or by its names where the metadata was lost."""
    return _METADATA in source.metadata or any(map(_MARKS.search, source.names()))


def published_name(name: str) -> str | None:
    """mflux's name -> the folder's, or None for T5's table in blocks after the first, where it is a copy."""
    if _COPIED_BIAS.match(name):
        return None
    for pattern, replacement in _RULES:
        name = pattern.sub(replacement, name)
    return name
