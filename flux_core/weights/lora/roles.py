"""What a tensor of a LoRA file is to its layer, told by the end of its name.

One table holds every spelling of every tool, so that a family's file needs to know module names only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto


class Role(Enum):
    """A tensor's part in a patch."""

    DOWN = auto()
    UP = auto()
    UP_BIAS = auto()
    ALPHA = auto()
    MAGNITUDE = auto()
    HADA_W1_A = auto()
    HADA_W1_B = auto()
    HADA_W2_A = auto()
    HADA_W2_B = auto()
    LOKR_W1 = auto()
    LOKR_W1_A = auto()
    LOKR_W1_B = auto()
    LOKR_W2 = auto()
    LOKR_W2_A = auto()
    LOKR_W2_B = auto()
    DIFF = auto()
    DIFF_BIAS = auto()
    WHOLE = auto()  # a norm's own weight
    RESHAPE = auto()  # the shape that the base is widened to; the matrices say the same


_PAIRS = (  # up, down
    ("lora_up", "lora_down"),
    ("lora_B", "lora_A"),
    ("lora.up", "lora.down"),
    ("lora_linear_layer.up", "lora_linear_layer.down"),
    ("up", "down"),
)
_SUFFIXES: dict[str, Role] = {
    **{f".{up}{end}": Role.UP for up, _ in _PAIRS for end in (".weight", "")},
    **{f".{down}{end}": Role.DOWN for _, down in _PAIRS for end in (".weight", "")},
    "_lora.up.weight": Role.UP,
    "_lora.down.weight": Role.DOWN,
    ".lora_B.bias": Role.UP_BIAS,
    ".lora_up.bias": Role.UP_BIAS,
    ".alpha": Role.ALPHA,
    ".dora_scale": Role.MAGNITUDE,
    ".lora_magnitude_vector": Role.MAGNITUDE,
    ".lora_magnitude_vector.weight": Role.MAGNITUDE,
    **{f".hada_w{i}_{side}": Role[f"HADA_W{i}_{side.upper()}"] for i in "12" for side in "ab"},
    **{f".lokr_w{i}_{side}": Role[f"LOKR_W{i}_{side.upper()}"] for i in "12" for side in "ab"},
    **{f".lokr_w{i}": Role[f"LOKR_W{i}"] for i in "12"},
    ".diff": Role.DIFF,
    ".w_norm": Role.DIFF,
    ".diff_b": Role.DIFF_BIAS,
    ".b_norm": Role.DIFF_BIAS,
    ".set_weight": Role.WHOLE,
    ".scale": Role.WHOLE,
    ".weight": Role.WHOLE,
    ".reshape_weight": Role.RESHAPE,
}
_ADAPTER_NAME = re.compile(
    r"\.(lora_[AB]|lora_magnitude_vector)\.(?!weight$|bias$)[^.]{1,100}(?=\.weight$|\.bias$|$)"
)
_MAX_NAME_CHARS = 400


def readings(name: str) -> Iterator[tuple[str, Role]]:
    """Every way to take a tensor's name as (module, role); PEFT's adapter name is left out."""
    if len(name) > _MAX_NAME_CHARS:
        return
    plain = _ADAPTER_NAME.sub(r".\1", name)
    for suffix, role in _SUFFIXES.items():
        if plain.endswith(suffix):
            yield plain[: -len(suffix)], role
