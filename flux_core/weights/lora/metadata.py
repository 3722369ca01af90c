"""Alphas that a file keeps in its header instead of in tensors: PEFT's configuration, as diffusers saves it.

Only what changes numbers is read: lora_alpha, r, their per-layer patterns, and rsLoRA's square root.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

_KEY = "lora_adapter_metadata"
_MAX_CHARS = 10_000_000
_PARTS = ("transformer.", "text_encoder_2.", "text_encoder.")

Scale = Callable[[int], float]
"""rank -> the factor before up @ down."""


class Alphas:
    """What a header says about scales.

    Args:
        metadata: Of the file; whatever in it is not understood counts as not said.
    """

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._config = _parsed(metadata.get(_KEY, ""))

    def of(self, module: str) -> Scale | None:
        """The scale of a module; None if the header does not say."""
        prefix = next((part for part in _PARTS if module.startswith(part)), "")
        name = module.removeprefix(prefix)
        alpha = _number(
            self._of_layer("alpha_pattern", prefix, name), self._config.get(f"{prefix}lora_alpha")
        )
        if alpha is None:
            return None
        is_root = self._config.get(f"{prefix}use_rslora") is True
        return lambda rank: alpha / (math.sqrt(rank) if is_root else rank)

    def _of_layer(self, key: str, prefix: str, module: str) -> Any:
        """PEFT's patterns are ends of names (regular expressions are not run: the file is not trusted)."""
        pattern: Any = self._config.get(prefix + key)
        if not isinstance(pattern, dict):
            return None
        for end, value in cast("dict[str, Any]", pattern).items():
            if module == end or module.endswith(f".{end}"):
                return value
        return None


def _parsed(text: str) -> dict[str, Any]:
    if not text or len(text) > _MAX_CHARS:
        return {}
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _number(*candidates: Any) -> float | None:
    """The first that is a finite number."""
    for value in candidates:
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9:
            return float(value)
    return None
