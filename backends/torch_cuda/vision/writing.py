"""Letting a helper write, with progress and a cancel after each token, and reading what it wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flux_core.looking import TextFound


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


def answer(helper: str, model: Any, tokenizer: Any, new: Tensor, max_tokens: int) -> TextFound:
    """What a model has written, as a finding.

    Args:
        helper: Id of the helper.
        model: That wrote; knows the tokens that end a text.
        tokenizer: That reads token ids.
        new: [L] the ids after those it was given.
        max_tokens: Where it would have been cut.
    """
    ends = model.generation_config.eos_token_id
    is_ended = len(new) > 0 and int(new[-1]) in (ends if isinstance(ends, list) else [ends])
    text = tokenizer.decode(new, skip_special_tokens=True).strip()
    return TextFound(model=helper, text=text, is_cut=len(new) >= max_tokens and not is_ended)
