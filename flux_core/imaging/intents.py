"""What a person means by a mask: fill it, continue the picture, add something, remove it, change the scene.

Each intent is one row of numbers: how much may change, what lies under the mask beforehand, how far the
mask reaches, and what the model is told. One function turns an intent and a person's words into settings.

Shares are of the diagonal of the mask's box, so that they hold for a small mask and a large one. The fade
lies inside the mask, so an intent that must cover an object's rim grows the mask first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import RequestInvalid
from flux_core.imaging import masks
from flux_core.imaging.inpaint import InpaintSettings
from flux_core.imaging.prefill import Prefill

Mask = NDArray[np.uint8]


class Intent(StrEnum):
    """What should happen under the mask."""

    FILL = "fill"
    EXPAND = "expand"
    ADD = "add"
    REMOVE = "remove"
    REPLACE_BACKGROUND = "replace-background"


@dataclass(frozen=True, slots=True)
class IntentRow:
    """How an intent is carried out.

    Attributes:
        strength: Of models that repaint by masked denoising; Fill models always take 1.
        prefill: What lies under the mask beforehand.
        falloff_px: Fade of the prefill, inside the mask.
        grow_share: How far the mask grows, of its box's diagonal.
        grow_px: And in pixels, at least.
        feather_share: Width of the fade inside the grown mask, of its box's diagonal.
        context: As InpaintSettings.context.
        is_mask_inverted: The person marks what stays.
        addition: What the model is told after the person's words.
        without_words: What it is told when the person says nothing.
    """

    intent: Intent
    strength: float
    prefill: Prefill
    falloff_px: int = 0
    grow_share: float = 0.0
    grow_px: int = 0
    feather_share: float = 0.05
    context: float = 0.5
    is_mask_inverted: bool = False
    addition: str = ""
    without_words: str = ""


INTENTS: tuple[IntentRow, ...] = (
    IntentRow(Intent.FILL, strength=1.0, prefill=Prefill.BLUR, falloff_px=9),
    IntentRow(
        Intent.EXPAND,
        strength=0.95,
        prefill=Prefill.EDGE,
        grow_share=0.01,
        grow_px=4,
        feather_share=0.01,
        context=1.0,
        addition="the scene goes on seamlessly beyond the frame",
        without_words="the scene goes on seamlessly beyond the frame",
    ),
    IntentRow(Intent.ADD, strength=1.0, prefill=Prefill.GREY, falloff_px=9),
    IntentRow(
        Intent.REMOVE,
        strength=0.9,
        prefill=Prefill.TELEA,
        grow_share=0.02,
        grow_px=4,
        feather_share=0.04,
        addition="an empty place, the background alone",
        without_words="an empty place, the background alone",
    ),
    IntentRow(
        Intent.REPLACE_BACKGROUND,
        strength=1.0,
        prefill=Prefill.GREY,
        grow_px=1,
        feather_share=0.005,
        context=1.0,
        is_mask_inverted=True,
        addition="the background behind the subject",
        without_words="a plain, softly lit background behind the subject",
    ),
)


@dataclass(frozen=True, slots=True)
class IntentSettings:
    """An intent with a person's words, ready for a request.

    Attributes:
        row: The intent's numbers.
        prompt: What the model is told.
        strength: How much may change.
        guidance: None means the model's default.
    """

    row: IntentRow
    prompt: str
    strength: float
    guidance: float | None


def row_of(intent: Intent) -> IntentRow:
    """The numbers of an intent."""
    return next(row for row in INTENTS if row.intent is intent)


def settings_for(
    intent: Intent, prompt: str, *, has_fill_inputs: bool = False, is_guidance_distilled: bool = True
) -> IntentSettings:
    """What to ask the model for.

    Args:
        intent: What should happen.
        prompt: The person's words, may be empty. For a removal they say what is behind, for a background
            what it shall be.
        has_fill_inputs: The model sees the masked picture (FLUX.1 Fill): it needs full strength, and its
            own high guidance whatever the intent.
        is_guidance_distilled: Else a step is evaluated twice, which without any words would only cost.
    """
    row, words = row_of(intent), " ".join(prompt.split())
    if words and row.addition:
        words = f"{words.rstrip('.,;')}, {row.addition}"
    told = words or row.without_words
    return IntentSettings(
        row=row,
        prompt=told,
        strength=1.0 if has_fill_inputs else row.strength,
        guidance=None if told or is_guidance_distilled else 1.0,
    )


def mask_for(intent: Intent, mask: Mask) -> Mask:
    """The mask of what is repainted, from the one a person has painted, [H, W].

    Raises:
        RequestInvalid: Nothing is marked, or everything that is not to be repainted.
    """
    if not row_of(intent).is_mask_inverted:
        return mask
    kept = masks.check(mask)
    if int(kept.min()) == 255:
        raise RequestInvalid("The whole picture is marked as the subject.", "Mark only what shall stay.")
    return 255 - kept


def inpaint_settings(intent: Intent, mask: Mask, base: InpaintSettings) -> InpaintSettings:
    """How the intent's mask becomes a job.

    Args:
        intent: What should happen.
        mask: [H, W] from `mask_for`.
        base: The model's sides; grow, feather and context are replaced.

    Raises:
        RequestInvalid: The mask is empty.
    """
    row, box = row_of(intent), masks.bounds(masks.check(mask))
    diagonal = math.hypot(box.width, box.height) if box is not None else 0.0
    grow_px = min(max(round(row.grow_share * diagonal), row.grow_px), masks.MAX_GROW_PX)
    widest = int(masks.mean_width_px(mask) / 6) + grow_px  # a thin mask still reaches full strength
    feather_px = min(round(row.feather_share * diagonal), widest, masks.MAX_FEATHER_PX)
    return replace(base, grow_px=grow_px, feather_px=feather_px, context=row.context)
