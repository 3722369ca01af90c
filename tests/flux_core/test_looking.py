"""A look says what it needs and no more, and says in one sentence what is wrong with it."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from flux_core.errors import RequestInvalid
from flux_core.looking import (
    Box,
    BoxesFound,
    Depth,
    Embed,
    Finding,
    FoundBox,
    Ground,
    Look,
    LookKind,
    MaskFound,
    PhraseScore,
    Point,
    Score,
    ScoreFound,
    SegmentPoints,
    TextFound,
    check_pictures,
)
from flux_core.request import explain

LOOK: TypeAdapter[Look] = TypeAdapter(Look)
FINDING: TypeAdapter[Finding] = TypeAdapter(Finding)


@pytest.mark.parametrize(
    "look",
    [
        Ground(phrases=("a cat", "the sea"), model="florence-2-base"),
        SegmentPoints(points=(Point(x_px=1, y_px=2), Point(x_px=3, y_px=4, is_positive=False))),
        SegmentPoints(box=Box(left_px=0, top_px=0, right_px=4, bottom_px=4)),
        Score(prompt="a cat, the sea"),
        Depth(),
    ],
)
def test_a_look_survives_the_wire(look: Look) -> None:
    assert LOOK.validate_json(LOOK.dump_json(look)) == look


@pytest.mark.parametrize(
    "finding",
    [
        TextFound(model="m", text="A cat."),
        BoxesFound(
            model="m",
            boxes=(FoundBox(box=Box(left_px=0, top_px=0, right_px=1, bottom_px=1), label="a cat"),),
        ),
        MaskFound(model="m", image=2, label="a cat", score=0.5),
        ScoreFound(
            model="m", picture=3, similarity=0.25, rank=1, phrases=(PhraseScore(phrase="a", similarity=0.5),)
        ),
    ],
)
def test_a_finding_survives_the_wire(finding: Finding) -> None:
    assert FINDING.validate_json(FINDING.dump_json(finding)) == finding


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"kind": "ground", "phrases": ["a", "  "]}', "it is empty; write what to look for"),
        ('{"kind": "ground", "phrases": []}', "at least 1 item"),
        ('{"kind": "ground", "phrases": [' + ", ".join(['"a"'] * 33) + "]}", "at most 32 items"),
        ('{"kind": "segment_phrase", "phrase": "' + "a" * 301 + '"}', "at most 300 characters"),
        ('{"kind": "segment_points"}', "a positive point or a box"),
        (
            '{"kind": "segment_points", "points": [{"x_px": 1, "y_px": 1, "is_positive": false}]}',
            "a positive point or a box",
        ),
        ('{"kind": "segment_points", "points": [{"x_px": -1, "y_px": 1}]}', "greater than or equal to 0"),
        (
            '{"kind": "segment_points", "box": {"left_px": 4, "top_px": 0, "right_px": 4, "bottom_px": 9}}',
            "right must be more than left",
        ),
        ('{"kind": "describe", "max_tokens": 0}', "greater than or equal to 1"),
        ('{"kind": "score", "prompt": " "}', "it is empty"),
        ('{"kind": "score"}', "is missing"),
        ('{"kind": "caption", "phrases": ["a"]}', "is not a part"),
        ('{"kind": "embed", "model": "../../etc"}', "has another form"),
    ],
)
def test_a_wrong_look_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(ValidationError) as err:
        LOOK.validate_json(text)
    message, hint = explain(err.value)
    assert words in message
    assert len(message) < 200
    assert hint


def test_a_point_on_the_last_pixel_is_inside_and_one_further_is_not() -> None:
    check_pictures(SegmentPoints(points=(Point(x_px=59, y_px=39),)), [(60, 40)])
    with pytest.raises(RequestInvalid, match="Point 1 at 59,40 lies outside"):
        check_pictures(SegmentPoints(points=(Point(x_px=59, y_px=40),)), [(60, 40)])


def test_a_box_may_end_at_the_edge() -> None:
    check_pictures(SegmentPoints(box=Box(left_px=0, top_px=0, right_px=60, bottom_px=40)), [(60, 40)])
    with pytest.raises(RequestInvalid, match="The box ends at 61,40"):
        check_pictures(SegmentPoints(box=Box(left_px=0, top_px=0, right_px=61, bottom_px=40)), [(60, 40)])


def test_only_scores_and_embeddings_take_several_pictures() -> None:
    check_pictures(Embed(), [(8, 8)] * 64)
    check_pictures(Score(prompt="a"), [(8, 8)] * 2)
    with pytest.raises(RequestInvalid, match="depth takes at most 1 picture, not 2"):
        check_pictures(Depth(), [(8, 8)] * 2)


def test_every_kind_of_look_has_a_model() -> None:
    smallest = {
        LookKind.GROUND: {"phrases": ["a"]},
        LookKind.SEGMENT_PHRASE: {"phrase": "a"},
        LookKind.SEGMENT_POINTS: {"points": [{"x_px": 0, "y_px": 0}]},
        LookKind.SCORE: {"prompt": "a"},
    }
    for kind in LookKind:
        look = LOOK.validate_python({"kind": kind.value, **smallest.get(kind, {})})
        assert look.kind is kind


def test_a_clip_score_is_a_hundred_cosines_and_never_below_zero() -> None:
    found = ScoreFound(
        model="m",
        similarity=0.31,
        rank=1,
        phrases=(PhraseScore(phrase="a", similarity=0.2), PhraseScore(phrase="b", similarity=0.4)),
    )
    assert found.clip_score == pytest.approx(31.0)
    assert found.mean_phrase_similarity == pytest.approx(0.3)
    assert ScoreFound(model="m", similarity=-0.2, rank=1).clip_score == 0.0
    assert ScoreFound(model="m", similarity=-0.2, rank=1).mean_phrase_similarity is None
