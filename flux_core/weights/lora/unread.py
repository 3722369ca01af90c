"""Adapters of kinds that are known by name and not read: GLoRA, OFT, BOFT, and Tucker's middle matrix.

A module with a middle matrix is left out as a whole: up and down without what stands between them would be
another change than the author's. The sentences say the kind, so that nobody takes it for damage.

Source: the tensor names that LyCORIS, sd-scripts, OneTrainer and PEFT write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath

from flux_core.errors import RequestInvalid
from flux_core.weights.tensors import TensorInfo

TUCKER = "Tucker decomposition"
_MAX_NAME_CHARS = 400
_BOFT_AXES = 4  # LyCORIS names both alike: [blocks, b, b] is OFT, [m, blocks, b, b] is BOFT
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("GLoRA", re.compile(r"(?P<module>.+)\.(?:a1|a2|b1|b2|bm)\.weight$", re.DOTALL)),
    ("BOFT", re.compile(r"(?P<module>.+)\.boft_[A-Za-z]+(?:\..+)?$", re.DOTALL)),
    ("OFT", re.compile(r"(?P<module>.+)\.oft_(?:blocks|diag|[rR](?:\..+)?)$", re.DOTALL)),
    (
        TUCKER,
        re.compile(r"(?P<module>.+)\.(?:lora_mid(?:\.weight)?|hada_t[12]|lokr_t[12])$", re.DOTALL),
    ),
)


def unread_modules(infos: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Module -> the kind that keeps it from being read."""
    found: dict[str, str] = {}
    for name, info in infos.items():
        if len(name) > _MAX_NAME_CHARS:
            continue
        for kind, pattern in _PATTERNS:
            match = pattern.match(name)
            if match is not None:
                is_boft = kind == "OFT" and len(info.shape) == _BOFT_AXES
                found.setdefault(match["module"], "BOFT" if is_boft else kind)
                break
    return found


def refusal(what: str, kinds: Iterable[str]) -> RequestInvalid:
    """The error for a file of which nothing else is left."""
    return RequestInvalid(
        f"{PurePath(what).name} is an adapter of the kind {' and '.join(kinds)}, "
        "which Flowbrush does not read.",
        "Get it as a LoRA, LoHa or LoKr, or extract a LoRA from a model that it was merged into.",
    )
