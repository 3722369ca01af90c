"""Letting a helper write: token by token, with progress and a cancel after each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def generate(
    model: Any, inputs: dict[str, Any], max_tokens: int, on_progress: Callable[[float], None], **how: Any
) -> Tensor:
    """Token ids [1, L] that a model of transformers writes; never by chance.

    Args:
        model: With `generate`.
        inputs: What it reads, on its device.
        max_tokens: Where it is cut.
        on_progress: Told the part of `max_tokens` that is written, after each token.
        how: More of the library's settings.
    """
    written = 0

    def after_token(ids: Tensor, scores: object, **rest: object) -> Tensor:
        nonlocal written
        written += 1
        on_progress(min(1.0, written / max_tokens))
        return ids.new_zeros(ids.shape[0], dtype=torch.bool)

    return model.generate(
        **inputs, max_new_tokens=max_tokens, do_sample=False, stopping_criteria=[after_token], **how
    )
