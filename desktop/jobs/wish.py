"""What a person asks for in the panel, before it is a request.

A wish speaks of the document ("this layer", "what is visible") and of files on this machine; a request
speaks of blobs. Plain values that the panel, the controller and the tests share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from flux_core.request import ControlKind, Decoder, Solver, StepCache


class Action(StrEnum):
    """What the one button will do."""

    GENERATE = "generate"
    REFINE = "refine"
    FILL = "fill"
    EDIT = "edit"
    CONTROL = "control"
    VARY = "vary"
    UPSCALE = "upscale"


def action_for(*, has_picture: bool, has_mask: bool, strength: float) -> Action:
    """The act that follows from the picture, the mask and the strength in (0, 1]."""
    if has_mask:
        return Action.FILL
    return Action.REFINE if has_picture and strength < 1.0 else Action.GENERATE


@dataclass(frozen=True, slots=True)
class PictureChoice:
    """A picture to use: a layer, a file, or what is visible if neither is named.

    Attributes:
        strength: How much it counts, where that matters; 1 is what the adapter was made for.
    """

    layer_id: str = ""
    file: Path | None = None
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class ControlWish:
    """What the result should follow.

    Attributes:
        is_map: Whether the picture is a map already; else the engine makes one of it.
        model: Who follows it; "" is the model itself.
        strength: None is its authors' own.
    """

    kind: ControlKind = ControlKind.CANNY
    picture: PictureChoice = field(default_factory=PictureChoice)
    is_map: bool = False
    model: str = ""
    strength: float | None = None


@dataclass(frozen=True, slots=True)
class Tuning:
    """What most people never open.

    Attributes:
        loras: As on the command line, with commas between: "ink:0.8, oil paint".
        has_layer_regions: Whether every visible layer with a mask, but for results, is a region whose
            words are the layer's name.
    """

    negative_prompt: str = ""
    true_guidance: float = 1.0
    solver: Solver = Solver.EULER
    step_cache: StepCache = StepCache.OFF
    decoder: Decoder = Decoder.FULL
    loras: str = ""
    has_layer_regions: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asked for in the panel; None lets the model choose.

    Attributes:
        strength: How much may change, in (0, 1].
        model: "" is what fits the act (flux_core.catalog.choose).
        seed: None means a new one each time.
        action: None is what fits the picture, the mask and the strength.
        intent: What is meant by the mask (flux_core.imaging.intents); "" takes it as it is.
        style: Name of a style (desktop.presets); "" for none.
        references: What an edit may refer to beside the picture.
        keeps_unchanged: Whether an edit is laid back onto its source and hidden where nothing changed.
        likenesses: What a variation is like.
        control: What is followed.
        scale: How many times larger an enlargement is.
        upscaler: A file in the folder `upscalers`; "" for plain resampling.
    """

    prompt: str = ""
    strength: float = 1.0
    model: str = ""
    seed: int | None = None
    num_steps: int | None = None
    guidance: float | None = None
    num_images: int = 1
    action: Action | None = None
    intent: str = ""
    style: str = ""
    references: tuple[PictureChoice, ...] = ()
    keeps_unchanged: bool = True
    likenesses: tuple[PictureChoice, ...] = (PictureChoice(),)
    control: ControlWish = field(default_factory=ControlWish)
    scale: int = 2
    upscaler: str = ""
    tuning: Tuning = field(default_factory=Tuning)
