"""Requests that read pictures and answer with words, boxes, masks, maps or scores instead of painting.

A `Look` says what is to be found out and by which helper; `Finding` is the answer. Pictures travel beside
both: the ones looked at as the request's blobs, masks and depth maps as result pictures that a finding
names by their place in the result. What can be checked without a model is checked here.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from flux_core.errors import RequestInvalid

MAX_PICTURES = 64
MAX_PHRASES = 32
MAX_PHRASE_CHARS = 300
MAX_TEXT_CHARS = 10_000
MAX_POINTS = 64
MAX_ANSWER_TOKENS = 1024
MAX_COORDINATE_PX = 16384  # the longest side of a picture that can be opened

HelperId = Annotated[str, Field(max_length=200, pattern=r"^([A-Za-z0-9][\w.\-]*)?$")]


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty; write what to look for")
    return text.strip()


Phrase = Annotated[str, Field(max_length=MAX_PHRASE_CHARS), AfterValidator(_not_blank)]
Pixel = Annotated[int, Field(ge=0, le=MAX_COORDINATE_PX)]


class LookKind(StrEnum):
    """What is to be found out about a picture."""

    CAPTION = "caption"  # a sentence or more
    DESCRIBE = "describe"  # an answer to a question
    GROUND = "ground"  # phrases -> boxes
    SEGMENT_PHRASE = "segment_phrase"  # a phrase -> a mask
    SEGMENT_POINTS = "segment_points"  # clicks or a box -> a mask
    DEPTH = "depth"  # a map of how near everything is
    SCORE = "score"  # how well pictures show a prompt
    EMBED = "embed"  # numbers by which similar pictures are found


class CaptionLength(StrEnum):
    """How much a caption says."""

    SHORT = "short"
    MEDIUM = "medium"
    LONG = "long"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Look(_Frozen):
    """What every look has.

    Attributes:
        model: Catalog id of the helper; "" takes the first one of the catalog that is on this machine.
    """

    model: HelperId = ""


class Point(_Frozen):
    """A click, in pixels from the upper left corner.

    Attributes:
        is_positive: Whether what was clicked belongs to the mask, or must not.
    """

    x_px: Pixel
    y_px: Pixel
    is_positive: bool = True


class Box(_Frozen):
    """A rectangle in pixels; right and bottom lie just outside of it."""

    left_px: Pixel
    top_px: Pixel
    right_px: Pixel
    bottom_px: Pixel

    @model_validator(mode="after")
    def _check_it_has_an_area(self) -> Self:
        if self.right_px <= self.left_px or self.bottom_px <= self.top_px:
            raise ValueError("right must be more than left and bottom more than top")
        return self


class Caption(_Look):
    """Says in one sentence, a few, or a paragraph what a picture shows."""

    kind: Literal[LookKind.CAPTION] = LookKind.CAPTION
    length: CaptionLength = CaptionLength.MEDIUM


class Describe(_Look):
    """Answers a question about a picture.

    Attributes:
        question: "" asks for a description.
        max_tokens: Where the answer is cut.
    """

    kind: Literal[LookKind.DESCRIBE] = LookKind.DESCRIBE
    question: str = Field(default="", max_length=MAX_TEXT_CHARS)
    max_tokens: int = Field(default=256, ge=1, le=MAX_ANSWER_TOKENS)


class Ground(_Look):
    """Finds where in a picture each phrase is."""

    kind: Literal[LookKind.GROUND] = LookKind.GROUND
    phrases: tuple[Phrase, ...] = Field(min_length=1, max_length=MAX_PHRASES)


class SegmentPhrase(_Look):
    """Masks what a phrase names."""

    kind: Literal[LookKind.SEGMENT_PHRASE] = LookKind.SEGMENT_PHRASE
    phrase: Phrase


class SegmentPoints(_Look):
    """Masks what was clicked, or what a box holds, or both.

    Attributes:
        points: At least one is positive, unless there is a box.
    """

    kind: Literal[LookKind.SEGMENT_POINTS] = LookKind.SEGMENT_POINTS
    points: tuple[Point, ...] = Field(default=(), max_length=MAX_POINTS)
    box: Box | None = None

    @model_validator(mode="after")
    def _check_something_is_meant(self) -> Self:
        if self.box is None and not any(point.is_positive for point in self.points):
            raise ValueError("it needs a positive point or a box; else nothing is meant")
        return self


class Depth(_Look):
    """Maps how near everything in a picture is."""

    kind: Literal[LookKind.DEPTH] = LookKind.DEPTH


class Score(_Look):
    """Measures how well each picture shows a prompt and its phrases, and ranks the pictures.

    Attributes:
        phrases: An empty tuple takes those that `flux_core.scoring.split_phrases` finds in the prompt.
    """

    kind: Literal[LookKind.SCORE] = LookKind.SCORE
    prompt: Annotated[str, Field(max_length=MAX_TEXT_CHARS), AfterValidator(_not_blank)]
    phrases: tuple[Phrase, ...] = Field(default=(), max_length=MAX_PHRASES)


class Embed(_Look):
    """Gives each picture as a unit vector; similar pictures have similar ones."""

    kind: Literal[LookKind.EMBED] = LookKind.EMBED


Look = Annotated[
    Caption | Describe | Ground | SegmentPhrase | SegmentPoints | Depth | Score | Embed,
    Field(discriminator="kind"),
]


# Answers


class _Finding(_Frozen):
    """What every finding has.

    Attributes:
        model: Catalog id of the helper that found it.
        picture: Which of the request's pictures it is about, from 0.
    """

    model: str
    picture: int = Field(default=0, ge=0)


class TextFound(_Finding):
    """Words about a picture.

    Attributes:
        is_cut: Whether there were no tokens left to end it.
    """

    kind: Literal["text"] = "text"
    text: str
    is_cut: bool = False


class FoundBox(_Frozen):
    """Where something is.

    Attributes:
        label: The phrase as the helper names it.
        score: In [0, 1]; None where the helper gives none.
    """

    box: Box
    label: str
    score: float | None = None


class BoxesFound(_Finding):
    """Where the phrases are; empty if none was found."""

    kind: Literal["boxes"] = "boxes"
    boxes: tuple[FoundBox, ...]


class MaskFound(_Finding):
    """A mask, 255 where the thing is.

    Attributes:
        image: Which of the result's pictures is the mask, from 0.
        label: The phrase, "" for clicks.
        box: Around the mask; None if the mask is empty.
        score: The helper's own estimate of how good the mask is; None where it gives none.
    """

    kind: Literal["mask"] = "mask"
    image: int = Field(ge=0)
    label: str = ""
    box: Box | None = None
    score: float | None = None


class DepthFound(_Finding):
    """A depth map, 255 where things are nearest, in equal steps of one over the distance.

    Attributes:
        image: Which of the result's pictures is the map, from 0.
        nearest_m, farthest_m: Distances in metres of 255 and 0; None where the helper knows no scale.
        focal_length_px: Estimated from the picture; None where the helper does not.
    """

    kind: Literal["depth"] = "depth"
    image: int = Field(ge=0)
    nearest_m: float | None = None
    farthest_m: float | None = None
    focal_length_px: float | None = None


class PhraseScore(_Frozen):
    """How well a picture shows a phrase; `similarity` as in ScoreFound."""

    phrase: str
    similarity: float


class ScoreFound(_Finding):
    """How well a picture shows the prompt.

    Attributes:
        similarity: Cosine between picture and prompt, in [-1, 1].
        rank: 1 is the best of the request's pictures; equals share a rank.
        phrases: In the order they were asked.
        is_prompt_cut: Whether the prompt is longer than the helper reads, so that only its beginning
            was compared; the phrases then say more.
    """

    kind: Literal["score"] = "score"
    similarity: float
    rank: int = Field(ge=1)
    phrases: tuple[PhraseScore, ...] = ()
    is_prompt_cut: bool = False

    @property
    def clip_score(self) -> float:
        """100 * max(similarity, 0), as CLIP scores are mostly published."""
        return 100.0 * max(self.similarity, 0.0)

    @property
    def mean_phrase_similarity(self) -> float | None:
        """None if there are no phrases."""
        if not self.phrases:
            return None
        return sum(each.similarity for each in self.phrases) / len(self.phrases)


class EmbeddingFound(_Finding):
    """A picture as a vector of length 1."""

    kind: Literal["embedding"] = "embedding"
    values: tuple[float, ...]


Finding = Annotated[
    TextFound | BoxesFound | MaskFound | DepthFound | ScoreFound | EmbeddingFound,
    Field(discriminator="kind"),
]

_SEVERAL = (LookKind.SCORE, LookKind.EMBED)


def check_pictures(look: Look, sizes: Sequence[tuple[int, int]]) -> None:
    """Checks that a look fits the pictures it is about, before anything is loaded.

    Args:
        look: What is asked.
        sizes: Width and height in pixels of each picture.

    Raises:
        RequestInvalid: There is no picture, or there are too many, or a point or the box lies outside.
    """
    if not sizes:
        raise RequestInvalid("There is no picture to look at.", "Give one.")
    most = MAX_PICTURES if look.kind in _SEVERAL else 1
    if len(sizes) > most:
        raise RequestInvalid(
            f"{look.kind.value} takes at most {most} picture{'s' if most > 1 else ''}, not {len(sizes)}.",
            "Ask about them one by one." if most == 1 else "Ask in several requests.",
        )
    if isinstance(look, SegmentPoints):
        _check_inside(look, *sizes[0])


def _check_inside(look: SegmentPoints, width_px: int, height_px: int) -> None:
    for number, point in enumerate(look.points, start=1):
        if point.x_px >= width_px or point.y_px >= height_px:
            raise RequestInvalid(
                f"Point {number} at {point.x_px},{point.y_px} lies outside of the picture, "
                f"which is {width_px} x {height_px} pixels.",
                "Click inside of the picture.",
            )
    box = look.box
    if box is not None and (box.right_px > width_px or box.bottom_px > height_px):
        raise RequestInvalid(
            f"The box ends at {box.right_px},{box.bottom_px}, outside of the picture, "
            f"which is {width_px} x {height_px} pixels.",
            "Draw it inside of the picture.",
        )
