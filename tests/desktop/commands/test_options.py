"""What the command line's notations mean, and that its names are the request's."""

from __future__ import annotations

from pathlib import Path

import pytest

from desktop import notation
from desktop.commands import options, plan
from desktop.presets import styles
from flux_core.errors import RequestInvalid
from flux_core.imaging.intents import Intent
from flux_core.request import ControlKind, Decoder, Precision, Solver, StepCache, Task


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        (options.PrecisionName, Precision),
        (options.SolverName, Solver),
        (options.StepCacheName, StepCache),
        (options.DecoderName, Decoder),
        (options.ControlKindName, ControlKind),
        (options.IntentName, Intent),
        (plan.TaskName, [task for task in Task if task is not Task.LOOK]),
    ],
)
def test_the_names_are_the_request_s(names, meant):
    assert [one.value for one in names] == [one.value for one in meant]


@pytest.mark.parametrize(
    ("text", "path", "strength"),
    [
        ("a.png", "a.png", None),
        ("a.png:0.5", "a.png", 0.5),
        ("C:\\a.png", "C:\\a.png", None),
        ("C:\\a.png:1", "C:\\a.png", 1.0),
        ("odd:name.png", "odd:name.png", None),
    ],
)
def test_a_likeness_is_a_picture_and_perhaps_a_strength(text, path, strength):
    found = notation.parse_likeness(text)
    assert (found.image, found.strength) == (Path(path), strength)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("canny=a.png", ("canny", "a.png", "", None)),
        ("canny=a.png:net", ("canny", "a.png", "net", None)),
        ("canny=C:\\a.png:net:0.5", ("canny", "C:\\a.png", "net", 0.5)),
        ("canny=a.png::0.5", ("canny", "a.png", "", 0.5)),
    ],
)
def test_a_map_has_a_kind_and_perhaps_a_model_and_a_strength(text, expected):
    found = notation.parse_controlnet(text)
    assert (found.kind, str(found.image), found.model, found.strength) == expected


def test_a_region_s_words_may_hold_colons():
    assert notation.parse_region("C:/sky.png:time: dusk") == (Path("C:/sky.png"), "time: dusk")


def test_numbers_go_before_the_ending():
    assert notation.numbered(Path("out/a.b.png"), 1, 3) == Path("out/a.b-2.png")
    assert notation.numbered(Path("a.png"), 0, 1) == Path("a.png")


def test_every_style_has_both_titles_and_something_to_say():
    assert 12 <= len(styles()) <= 20
    assert len({style.name for style in styles()}) == len(styles())
    for style in styles():
        assert style.title.keys() == {"en", "zh_CN"}
        assert style.editing or style.painting
        if style.painting:
            assert style.prompt("a barn").count("a barn") == 1
            assert "{" not in style.prompt("")
        if style.editing:
            assert style.instruction("Add rain.").endswith(" Add rain.")


def test_a_style_that_is_not_for_it_names_those_that_are():
    with pytest.raises(RequestInvalid) as caught:
        next(style for style in styles() if not style.painting).prompt("x")
    assert "watercolour" in caught.value.hint


def test_settings_that_do_not_fit_together_are_named_as_options():
    said = "The request does not fit together: negative_prompt needs a true_guidance above 1."
    expected = "The request does not fit together: --negative needs a --true-guidance above 1."
    assert options.in_options(said, ["--negative"]) == expected
