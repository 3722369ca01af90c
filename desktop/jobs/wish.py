"""What a person asks for in the panel, before it is a request.

A wish speaks of the document ("this layer", "what is visible") and of files on this machine; a request
speaks of blobs. Plain values that the panel, the controller and the tests share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from flux_core.looking import Box, CaptionLength, Point
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
    SCORE = "score"
    DESCRIBE = "describe"
    SELECT = "select"
    MAP = "map"
    SIMILAR = "similar"

    @property
    def is_look(self) -> bool:
        """Whether it finds something out about pictures instead of painting one."""
        return self in _LOOKS


_LOOKS = (Action.SCORE, Action.DESCRIBE, Action.SELECT, Action.MAP, Action.SIMILAR)


def action_for(*, has_picture: bool, has_mask: bool, strength: float) -> Action:
    """The act that follows from the picture, the mask and the strength in (0, 1]."""
    if has_mask:
        return Action.FILL
    return Action.REFINE if has_picture and strength < 1.0 else Action.GENERATE


@dataclass(frozen=True, slots=True)
class PictureChoice:
    """A picture to use: a layer, a file, or what is visible if none is named.

    Attributes:
        strength: How much it counts, where that matters; 1 is what the adapter was made for.
        variant: Which of the layer's variants, from 0, as the engine gave it; None is what the layer shows.
        kept: sha256 of a result that the service keeps.
    """

    layer_id: str = ""
    file: Path | None = None
    strength: float = 1.0
    variant: int | None = None
    kept: str = ""


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


class Scope(StrEnum):
    """Which pictures are scored."""

    CHOSEN = "chosen"
    VARIANTS = "variants"  # of the active layer
    RESULTS = "results"  # every variant of every generated layer


class Combine(StrEnum):
    """What a mask that was found does to the one that is there."""

    REPLACE = "replace"
    ADD = "add"
    SUBTRACT = "subtract"


@dataclass(frozen=True, slots=True)
class LookWish:
    """What to find out about pictures.

    Attributes:
        pictures: All of them, or the first where only one is looked at.
        scope: Score: whether `pictures` or others are meant.
        phrases: Score: what else is looked for; () takes the parts of the prompt.
        question: Describe: what to answer; "" asks for a caption.
        length: Of the caption.
        combine: Select: with the mask that is there.
        is_boxed: Select: masks the boxes around what the words name, instead of its outline.
        points, box: Select: what was clicked on the canvas; the words then have no part in it.
        map_kind: Map: edges or depth.
        has_kept: Similar: also among the results that the service keeps from other pictures.
    """

    pictures: tuple[PictureChoice, ...] = (PictureChoice(),)
    scope: Scope = Scope.CHOSEN
    phrases: tuple[str, ...] = ()
    question: str = ""
    length: CaptionLength = CaptionLength.MEDIUM
    combine: Combine = Combine.REPLACE
    is_boxed: bool = False
    points: tuple[Point, ...] = ()
    box: Box | None = None
    map_kind: ControlKind = ControlKind.DEPTH
    has_kept: bool = True


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
        look: What to find out, where nothing is painted.
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
    look: LookWish = field(default_factory=LookWish)
    tuning: Tuning = field(default_factory=Tuning)
