"""How well pictures follow their prompts: phrases of a prompt, ranking, and a report over a fixed suite.

A CLIP score of a whole prompt hides which part of it is missing, and CLIP reads 77 tokens where T5 reads
256 or 512; so every prompt is also scored phrase by phrase, and the suite's long prompts name what they
say late. Painting and looking are the caller's; this module knows no model.

Source: Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image Captioning".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flux_core.errors import Corrupt, RequestInvalid
from flux_core.looking import MAX_PHRASE_CHARS, MAX_PHRASES, PhraseScore, ScoreFound

SUITE_FILE = Path(__file__).parents[1] / "resources" / "prompts" / "alignment.json"
TEXT_LENGTHS = (256, 512)
"""Tokens of T5 that the report's columns compare."""

_ENDS = re.compile(r"[;\n|]+|[,.!?:]+(?=\s|$)")
_CONJUNCTION = re.compile(r"^(?:and|but|or|then)\s+", re.IGNORECASE)


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SuitePrompt(_Frozen):
    """A prompt of the fixed suite.

    Attributes:
        name: Short, unique in the suite.
        phrases: What must be seen; each stands in the prompt.
        late_phrases: Those of `phrases` that T5 reads only after its 256th token.
    """

    name: str = Field(min_length=1, max_length=40)
    prompt: str = Field(min_length=1)
    phrases: tuple[str, ...] = Field(min_length=1, max_length=MAX_PHRASES)
    late_phrases: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_phrases_are_of_the_prompt(self) -> SuitePrompt:
        strange = [phrase for phrase in self.phrases if phrase not in self.prompt]
        if strange or not set(self.late_phrases) <= set(self.phrases):
            raise ValueError(f"its phrases are not of its prompt: {strange or self.late_phrases}")
        return self


class PromptScore(_Frozen):
    """One picture of the suite.

    Attributes:
        name: Of the prompt.
        text_length: Tokens that T5 read.
        similarity: Cosine between picture and prompt, as far as CLIP reads it.
        phrases: The prompt's phrases in their order.
        late_phrases: Those of them that come late.
    """

    name: str
    text_length: int
    similarity: float
    phrases: tuple[PhraseScore, ...]
    late_phrases: tuple[str, ...] = ()


class Column(_Frozen):
    """The suite at one text length: means of cosines. `late_phrases` is None if no phrase comes late."""

    text_length: int
    prompts: float
    phrases: float
    late_phrases: float | None = None


class AlignmentReport(_Frozen):
    """The whole suite.

    Attributes:
        model: That painted.
        helper: That scored.
        seed: Of every picture.
    """

    model: str
    helper: str
    seed: int
    scores: tuple[PromptScore, ...] = Field(min_length=1)

    @property
    def columns(self) -> tuple[Column, ...]:
        """One for each text length, short ones first."""
        lengths = sorted({score.text_length for score in self.scores})
        return tuple(
            _column(length, [score for score in self.scores if score.text_length == length])
            for length in lengths
        )

    def rows(self) -> list[tuple[str, ...]]:
        """A table for people: prompt or phrase, then a cosine for each text length; means at the end."""
        columns = self.columns
        found = {(score.name, score.text_length): score for score in self.scores}
        table: list[tuple[str, ...]] = []
        for name in dict.fromkeys(score.name for score in self.scores):
            each = [found.get((name, column.text_length)) for column in columns]
            table.append((name, *(_figure(score.similarity if score else None) for score in each)))
            first = next(score for score in each if score)
            for index, phrase in enumerate(first.phrases):
                mark = "  late: " if phrase.phrase in first.late_phrases else "  "
                values = (score.phrases[index].similarity if score else None for score in each)
                table.append((f"{mark}{phrase.phrase}", *map(_figure, values)))
        table.append(("mean of prompts", *(_figure(column.prompts) for column in columns)))
        table.append(("mean of phrases", *(_figure(column.phrases) for column in columns)))
        if any(column.late_phrases is not None for column in columns):
            table.append(("mean of late phrases", *(_figure(column.late_phrases) for column in columns)))
        return table

    def as_json(self) -> dict[str, object]:
        """Scores and columns, for machines."""
        return {
            **self.model_dump(mode="json"),
            "columns": [column.model_dump(mode="json") for column in self.columns],
        }


def split_phrases(prompt: str) -> tuple[str, ...]:
    """The parts of a prompt that can be looked for one by one, in their order.

    A part ends at a comma, a colon, the end of a sentence or of a line. A part that was there already is
    left out, a long one is cut at a word, and only the first MAX_PHRASES are taken.
    """
    found: dict[str, str] = {}
    for part in _ENDS.split(prompt):
        phrase = _shortened(_CONJUNCTION.sub("", " ".join(part.split())))
        if any(sign.isalnum() for sign in phrase):
            found.setdefault(phrase.casefold(), phrase)
    return tuple(found.values())[:MAX_PHRASES]


def ranks(values: Sequence[float]) -> tuple[int, ...]:
    """The place of each value, 1 for the largest; equals share a place and the next ones are skipped."""
    return tuple(1 + sum(other > value for other in values) for value in values)


def ranked(findings: Iterable[ScoreFound]) -> list[ScoreFound]:
    """The best picture first; equals stay in the pictures' order."""
    return sorted(findings, key=lambda found: (found.rank, found.picture))


def most_alike(
    vector: Sequence[float], others: Mapping[str, Sequence[float]], count: int
) -> list[tuple[str, float]]:
    """The pictures most like one, the most alike first, each with its cosine.

    Args:
        vector: Of length 1, as EmbeddingFound gives it.
        others: Name of a picture -> its vector, by the same helper.
        count: How many at most.
    """
    cosines = {name: sum(a * b for a, b in zip(vector, other, strict=True)) for name, other in others.items()}
    return sorted(cosines.items(), key=lambda each: (-each[1], each[0]))[:count]


def read_suite(path: Path = SUITE_FILE) -> tuple[SuitePrompt, ...]:
    """The fixed prompts.

    Raises:
        RequestInvalid: The file is not there.
        Corrupt: It is no suite, or a name stands in it twice.
    """
    try:
        suite = _Suite.model_validate_json(path.read_bytes()).prompts
    except OSError as err:
        raise RequestInvalid(
            f"{path.name} cannot be read: {(err.strerror or str(err)).lower()}.", "Check the file's name."
        ) from err
    except ValidationError as err:
        reason = str(err.errors(include_url=False)[0]["msg"])[:200]
        raise Corrupt(f"{path.name} is not a suite of prompts: {reason}.", "Use another copy.") from err
    if len({each.name for each in suite}) < len(suite):
        raise Corrupt(f"{path.name} has two prompts of one name.", "Give each its own.")
    return suite


def run_suite(
    suite: Sequence[SuitePrompt],
    score: Callable[[SuitePrompt, int], ScoreFound],
    model: str,
    seed: int,
    text_lengths: Sequence[int] = TEXT_LENGTHS,
) -> AlignmentReport:
    """Scores every prompt at every text length.

    Args:
        suite: From `read_suite`.
        score: Paints a prompt with so many T5 tokens, and says how well the picture shows it and its phrases.
        model: That paints.
        seed: Of every picture.
        text_lengths: The report's columns.
    """
    scores: list[PromptScore] = []
    helper = ""
    for prompt in suite:
        for length in text_lengths:
            found = score(prompt, length)
            helper = found.model
            scores.append(
                PromptScore(
                    name=prompt.name,
                    text_length=length,
                    similarity=found.similarity,
                    phrases=found.phrases,
                    late_phrases=prompt.late_phrases,
                )
            )
    return AlignmentReport(model=model, helper=helper, seed=seed, scores=tuple(scores))


class _Suite(_Frozen):
    prompts: tuple[SuitePrompt, ...] = Field(min_length=1, max_length=1000)


def _column(length: int, scores: Sequence[PromptScore]) -> Column:
    every = [phrase.similarity for score in scores for phrase in score.phrases]
    late = [p.similarity for score in scores for p in score.phrases if p.phrase in score.late_phrases]
    return Column(
        text_length=length,
        prompts=_mean([score.similarity for score in scores]),
        phrases=_mean(every),
        late_phrases=_mean(late) if late else None,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _shortened(phrase: str) -> str:
    if len(phrase) <= MAX_PHRASE_CHARS:
        return phrase
    return phrase[: MAX_PHRASE_CHARS + 1].rpartition(" ")[0] or phrase[:MAX_PHRASE_CHARS]
