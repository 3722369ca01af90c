"""Who listens to which words: the attention bias of regions and of pictures that count more or less.

The text stream is a row of segments: the prompt for the whole, pictures to be like, the regions' prompts.
Image tokens hear a region's words as far as they lie in it, and the whole's words less there; regions hear
only themselves and their own place, so that their words do not mix.

Source: the idea of masked regional prompts for FLUX.1 (Chen et al. 2024, Regional-Prompting-FLUX); ours adds
logarithms of shares to the logits instead of blending two attentions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flux_core.models.autoencoder import SCALE_FACTOR

Floats = NDArray[np.float32]

SILENCE = -1e9  # of a logit: nothing is heard, and no row of softmax is empty of numbers
_TOKEN_PX = 2 * SCALE_FACTOR

MAX_TOKENS = 23_000
"""Of all streams together, with a bias; in float32 it takes 2 GB then, and twice that while it is copied."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of text tokens.

    Attributes:
        length: Tokens.
        strength: How much it counts, above 0.
        place: [L_img] in [0, 1], the region it is for; None is for the whole.
    """

    length: int
    strength: float = 1.0
    place: Floats | None = None


def token_cover(grid: Floats) -> Floats:
    """A mask [H', W'] in [0, 1], sides multiples of 16 -> how much of each image token it covers, [L_img]."""
    height, width = grid.shape
    cells = grid.reshape(height // _TOKEN_PX, _TOKEN_PX, width // _TOKEN_PX, _TOKEN_PX)
    return cells.mean(axis=(1, 3), dtype=np.float32).reshape(-1)


def attention_bias(
    segments: Sequence[Segment], image_tokens: int, other_tokens: int, base: float
) -> Floats | None:
    """The bias of every attention.

    Args:
        segments: The text stream, in order.
        image_tokens: Of the picture that is painted.
        other_tokens: Of reference pictures behind it; they hear the whole's words alone.
        base: How much the whole's words count inside regions, in [0, 1].

    Returns:
        [1, 1, L, L] float32, text first; None if nothing differs from plain attention.
    """
    if all(segment.place is None and segment.strength == 1.0 for segment in segments):
        return None
    text_tokens = sum(segment.length for segment in segments)
    length = text_tokens + image_tokens + other_tokens
    bias = np.zeros((length, length), np.float32)
    image = slice(text_tokens, text_tokens + image_tokens)
    others = slice(text_tokens + image_tokens, length)
    inside = _union(segments, image_tokens)
    start = 0
    for segment in segments:
        own = slice(start, start + segment.length)
        start += segment.length
        if segment.place is None:
            heard = (1.0 - inside * (1.0 - base)) * segment.strength
            bias[:, own] = _log(np.array(segment.strength))
            bias[image, own] = _log(heard)[:, None]
        else:
            place = _log(segment.place)
            bias[:, own] = SILENCE
            bias[own, :] = SILENCE
            bias[own, own] = 0.0
            bias[image, own] = _log(segment.place * segment.strength)[:, None]
            bias[own, image] = place[None, :]
            bias[others, own] = SILENCE
    return bias[None, None]


def _union(segments: Sequence[Segment], image_tokens: int) -> Floats:
    """How much of each image token lies in any region."""
    places = [segment.place for segment in segments if segment.place is not None]
    return np.maximum.reduce(places) if places else np.zeros(image_tokens, np.float32)


def _log(share: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(share), SILENCE).astype(np.float32)
