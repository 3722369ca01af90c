"""What a look found out, ready to be shown: words, a ranking, a mask or a map.

Plain values that the threads of the jobs make and the window shows; nothing here knows the service.
"""

from __future__ import annotations

from dataclasses import dataclass

from desktop.document.tiles import Pixels
from desktop.jobs.wish import PictureChoice
from flux_core.looking import PhraseScore
from flux_core.request import ControlKind, GenerationRequest


@dataclass(frozen=True, slots=True)
class Words:
    """A caption or an answer; `is_cut` if it was too long to be written to its end."""

    text: str
    is_cut: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A result that the service keeps.

    Attributes:
        sha256: Of its PNG.
        seed: Its own.
        request: The job that painted it.
    """

    sha256: str
    seed: int
    request: GenerationRequest


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """One picture of a ranking.

    Attributes:
        similarity: Cosine, in [-1, 1].
        rank: 1 is the best; equals share a rank.
        thumbnail: [h, w, 3], small.
        phrases: How well it shows each phrase.
        kept: Where it comes from if it is in no layer.
    """

    choice: PictureChoice
    similarity: float
    rank: int
    thumbnail: Pixels
    phrases: tuple[PhraseScore, ...] = ()
    kept: Kept | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Pictures, the best first.

    Attributes:
        is_prompt_cut: Whether the prompt is longer than was compared, so that its phrases say more.
    """

    rows: tuple[Ranked, ...]
    is_prompt_cut: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class FoundMask:
    """Where something is: [H, W] of the canvas, 255 = there. Empty if it was not found."""

    grey: Pixels

    @property
    def is_empty(self) -> bool:
        return not self.grey.any()


@dataclass(frozen=True, slots=True, eq=False)
class FoundMap:
    """A map that can be followed: [H, W, 3] of the picture's own size, with three equal channels."""

    kind: ControlKind
    pixels: Pixels
    choice: PictureChoice


Answer = Words | Ranking | FoundMask | FoundMap
