"""Phrases are the prompt's own words, ranks share ties, and the report's means are those of its figures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_core import scoring
from flux_core.errors import Corrupt, RequestInvalid
from flux_core.looking import MAX_PHRASE_CHARS, MAX_PHRASES, PhraseScore, Score, ScoreFound


@pytest.mark.parametrize(
    ("prompt", "phrases"),
    [
        ("a red cat, a blue dog", ("a red cat", "a blue dog")),
        (
            "A lake at dusk. And a boat; mist\nstyle: oil",
            ("A lake at dusk", "a boat", "mist", "style", "oil"),
        ),
        ("one, One, ONE", ("one",)),
        ("a lens of 1.5 m at 10:30, v2.1", ("a lens of 1.5 m at 10:30", "v2.1")),
        (" , ; ... !?", ()),
        ("", ()),
        ("spaced   out\twords", ("spaced out words",)),
        ("一只猫", ("一只猫",)),
    ],
)
def test_a_prompt_falls_into_its_phrases(prompt: str, phrases: tuple[str, ...]) -> None:
    assert scoring.split_phrases(prompt) == phrases


@given(st.text(max_size=2000))
def test_the_phrases_of_any_prompt_can_be_asked_about(prompt: str) -> None:
    phrases = scoring.split_phrases(prompt)
    assert len(phrases) <= MAX_PHRASES
    assert all(0 < len(phrase) <= MAX_PHRASE_CHARS for phrase in phrases)
    assert Score(prompt="x", phrases=phrases).phrases == phrases


def test_a_long_phrase_is_cut_between_words() -> None:
    (phrase,) = scoring.split_phrases("word " * 100)
    assert phrase.endswith(" word")
    assert len(phrase) <= MAX_PHRASE_CHARS
    (phrase,) = scoring.split_phrases("w" * 1000)
    assert len(phrase) == MAX_PHRASE_CHARS


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_a_rank_is_one_more_than_the_number_of_better_ones(values: list[float]) -> None:
    ranks = scoring.ranks(values)
    assert min(ranks) == 1
    by_rank = sorted(zip(ranks, values, strict=True))
    assert [value for _, value in by_rank] == sorted(values, reverse=True)
    assert all((ranks[0] == rank) == (values[0] == value) for rank, value in zip(ranks, values, strict=True))


def test_the_best_picture_comes_first() -> None:
    found = [ScoreFound(model="m", picture=i, similarity=0, rank=rank) for i, rank in enumerate((3, 1, 1))]
    assert [each.picture for each in scoring.ranked(found)] == [1, 2, 0]


def test_the_pictures_most_alike_come_first_and_equals_by_their_names() -> None:
    others = {"c": (0.6, 0.8), "b": (1.0, 0.0), "a": (1.0, 0.0), "far": (-1.0, 0.0)}
    found = scoring.most_alike((1.0, 0.0), others, count=3)
    assert found == [("a", 1.0), ("b", 1.0), ("c", 0.6)]
    assert scoring.most_alike((1.0, 0.0), {}, count=3) == []


def test_the_suite_names_phrases_that_only_the_longer_text_reaches() -> None:
    suite = scoring.read_suite()
    assert len(suite) >= 12
    late = [prompt for prompt in suite if prompt.late_phrases]
    assert len(late) >= 3
    for prompt in late:
        for phrase in prompt.late_phrases:
            before = prompt.prompt[: prompt.prompt.index(phrase)]
            words, signs = len(before.split()), len(re.findall(r"[.,:;]", before))
            assert words + signs > 256  # each word and each sign is at least one token
        assert len(prompt.prompt.split()) * 1.5 < 512
        assert all(phrase not in prompt.late_phrases for phrase in prompt.phrases[:2])


def _scored(prompt: scoring.SuitePrompt, length: int) -> ScoreFound:
    """A picture that shows late phrases only at 512 tokens."""
    values = [0.1 if p in prompt.late_phrases and length == 256 else 0.3 for p in prompt.phrases]
    phrases = tuple(PhraseScore(phrase=p, similarity=v) for p, v in zip(prompt.phrases, values, strict=True))
    return ScoreFound(model="clip", similarity=0.2 + length / 5120, rank=1, phrases=phrases)


def test_the_report_compares_the_two_lengths_of_text() -> None:
    suite = scoring.read_suite()
    report = scoring.run_suite(suite, _scored, model="tiny", seed=7)
    short, long = report.columns
    assert (short.text_length, long.text_length) == (256, 512)
    assert (short.prompts, long.prompts) == (pytest.approx(0.25), pytest.approx(0.3))
    assert (short.late_phrases, long.late_phrases) == (pytest.approx(0.1), pytest.approx(0.3))
    late, total = sum(len(p.late_phrases) for p in suite), sum(len(p.phrases) for p in suite)
    assert short.phrases == pytest.approx((0.1 * late + 0.3 * (total - late)) / total)
    assert (report.helper, report.seed) == ("clip", 7)


def test_the_reports_table_has_a_row_for_each_prompt_and_phrase_and_the_means() -> None:
    suite = scoring.read_suite()[:2]
    report = scoring.run_suite(suite, _scored, model="tiny", seed=7)
    rows = report.rows()
    assert [row[0] for row in rows] == [
        "one object",
        "  a red apple",
        "  a wooden table",
        "two objects",
        "  a blue cup",
        "  a yellow book",
        "mean of prompts",
        "mean of phrases",
    ]
    assert rows[0][1:] == ("0.2500", "0.3000")
    assert {len(row) for row in rows} == {3}


def test_a_report_for_machines_holds_its_columns() -> None:
    report = scoring.run_suite(scoring.read_suite()[-1:], _scored, model="tiny", seed=7, text_lengths=(512,))
    said = json.loads(json.dumps(report.as_json()))
    assert [column["text_length"] for column in said["columns"]] == [512]
    assert said["scores"][0]["phrases"][0]["similarity"] == 0.3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not a suite of prompts"),
        ('{"prompts": []}', "is not a suite of prompts"),
        ('{"prompts": [{"name": "a", "prompt": "a cat", "phrases": ["a dog"]}]}', "not of its prompt"),
        (
            '{"prompts": [{"name": "a", "prompt": "x", "phrases": ["x"]},'
            ' {"name": "a", "prompt": "y", "phrases": ["y"]}]}',
            "two prompts of one name",
        ),
    ],
)
def test_a_suite_that_is_none_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "suite.json"
    path.write_text(text)
    with pytest.raises(Corrupt, match=words):
        scoring.read_suite(path)


def test_a_suite_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestInvalid, match=r"mine.json cannot be read: no such file"):
        scoring.read_suite(tmp_path / "mine.json")
