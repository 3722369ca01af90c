"""Which results are like a picture: among those of the document, and those that the service still keeps.

Vectors that one helper made can be compared, and are remembered, so a search asks the service only about
pictures that this helper has not seen, some at a time, and about none at all if it has seen them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from desktop.document.layers import GenerativeLayer
from desktop.document.state import DocumentState
from desktop.jobs.answers import Kept, Ranked, Ranking
from desktop.jobs.embeddings import EmbeddingMemory
from desktop.jobs.looks import Asked, Errand, errand, png_of, results_of, thumbnail, variants_of
from desktop.jobs.wish import PictureChoice
from flux_core import scoring
from flux_core.errors import Internal, RequestInvalid
from flux_core.looking import MAX_PICTURES, Embed, EmbeddingFound, Finding
from flux_core.messages import JobRecord, JobState

MAX_SHOWN = 24


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A picture that may be like the chosen one; `png` is None if only the service has it."""

    choice: PictureChoice
    png: bytes | None = None
    kept: Kept | None = None


class SimilarSearch:
    """One search.

    Args:
        asked: What is searched.
        records: Every job that the service remembers; none searches only the document.
        memory: Vectors of earlier searches.

    Raises:
        RequestInvalid: There is nothing to compare with.
    """

    def __init__(self, asked: Asked, records: Sequence[JobRecord], memory: EmbeddingMemory) -> None:
        self._memory = memory
        choice = _as_painted(asked.state, asked.wish.look.pictures[0])
        png = png_of(asked.state, choice)
        self._name = _name(png)
        self._candidates = {**_kept(records), **_in_document(asked.state), self._name: Candidate(choice, png)}
        if len(self._candidates) == 1:
            raise RequestInvalid("There is no other result to compare with.", "Generate some pictures first.")
        self._helper = memory.best_helper(self._candidates)

    def next_errand(self) -> Errand | None:
        """What has to be looked at before the ranking can be made; None if nothing."""
        known = self._memory.known(self._helper, self._candidates) if self._helper else {}
        missing = [name for name in self._candidates if name not in known][:MAX_PICTURES]
        if not missing:
            return None
        candidates = [self._candidates[name] for name in missing]
        blobs = [each.png for each in candidates if each.png is not None]
        return errand(Embed(), missing, blobs, [each.choice for each in candidates])

    def hear(self, sent: Errand, findings: Sequence[Finding]) -> None:
        """Remembers what a helper saw; another helper than before starts the search anew.

        Raises:
            Internal: It saw nothing.
        """
        seen = [found for found in findings if isinstance(found, EmbeddingFound)]
        if not seen:
            raise Internal("The helper looked and found nothing.", "Look into the service's log.")
        for found in seen:
            self._memory.keep(found.model, sent.names[found.picture], found.values)
            self._helper = found.model

    def ranking(self, get_blob: Callable[[str], bytes]) -> Ranking:
        """The most alike first, without the picture itself; one that has gone meanwhile is left out."""
        vectors = self._memory.known(self._helper, self._candidates)
        wanted = vectors.pop(self._name)
        rows: list[Ranked] = []
        for name, similarity in scoring.most_alike(wanted, vectors, MAX_SHOWN):
            candidate = self._candidates[name]
            try:
                png = candidate.png if candidate.png is not None else get_blob(name)
            except RequestInvalid:
                continue
            rank = len(rows) + 1
            rows.append(Ranked(candidate.choice, similarity, rank, thumbnail(png), kept=candidate.kept))
        return Ranking(tuple(rows))


def _as_painted(state: DocumentState, choice: PictureChoice) -> PictureChoice:
    """A generated layer is meant as the engine gave it."""
    layer = state.find(choice.layer_id) if choice.variant is None and choice.file is None else None
    if isinstance(layer, GenerativeLayer):
        return PictureChoice(layer.id, variant=layer.recipe.chosen)
    return choice


def _in_document(state: DocumentState) -> Mapping[str, Candidate]:
    """sha256 -> every variant of every generated layer."""
    found: dict[str, Candidate] = {}
    for layer in results_of(state):
        for choice, variant in zip(variants_of(layer), layer.recipe.variants, strict=True):
            found.setdefault(_name(variant.png), Candidate(choice, variant.png))
    return found


def _kept(records: Sequence[JobRecord]) -> Mapping[str, Candidate]:
    """sha256 -> every picture that a job painted, the newest first."""
    found: dict[str, Candidate] = {}
    for record in reversed(records):
        if record.state is JobState.DONE and record.finished is not None and record.request.look is None:
            for image in record.finished.images:
                kept = Kept(image.sha256, image.seed, record.request)
                found.setdefault(image.sha256, Candidate(PictureChoice(kept=image.sha256), kept=kept))
    return found


def _name(png: bytes) -> str:
    return hashlib.sha256(png).hexdigest()
