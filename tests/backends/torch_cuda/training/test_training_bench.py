"""The measurement of the family measures what it says: the truth is perfect, and what is wrong is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from backends.torch_cuda.training import judge
from backends.torch_cuda.training.bench import exercises, figures
from backends.torch_cuda.training.bench.exercises import CPU, Exercise, Maker
from backends.torch_cuda.training.data import edits, pairs
from backends.torch_cuda.training.data.compose import Composer
from backends.torch_cuda.training.data.feed import LABELS
from backends.torch_cuda.training.members import lessons
from flux_core.imaging import codec
from tests.support.training_pack import disc_pack

SIZE = (exercises.SIDE_PX, exercises.SIDE_PX)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two exercises of every group."""
    folder = tmp_path_factory.mktemp("bench")
    maker = Maker(disc_pack(), folder, 2)
    for write in exercises.SECTIONS.values():
        write(maker)
    maker.write()
    return folder


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer(disc_pack(), CPU)


@pytest.fixture(scope="module")
def eye() -> judge.Judge:
    """One that was never taught: figures that do not need it are exact, and its own equal the truth's."""
    torch.manual_seed(0)
    return judge.Judge(LABELS)


def truth(folder: Path, one: Exercise, composer: Composer) -> Tensor:
    """The picture that an exercise wants."""
    columns = exercises.columns_of(folder, one.section)
    if pairs.AFTER + "kind" in columns:
        columns = lessons.part(columns, pairs.AFTER)
    width, height = (int(side) for side in one.group.split("x")) if one.section == "sizes" else SIZE
    return composer(columns, (height, width))[one.index]


def answer(folder: Path, composer: Composer, section: str, is_right: bool) -> None:
    """Puts pictures in place: what was wanted, or grey."""
    for one in exercises.read(folder):
        if one.section == section:
            image = truth(folder, one, composer)
            image = image if is_right else torch.full_like(image, 0.5)
            pixels = (image * 255).round().byte().numpy()
            (folder / one.file).write_bytes(codec.encode_png(pixels))


def measured(
    folder: Path, composer: Composer, eye: judge.Judge, *sections: str
) -> dict[str, figures.Figures]:
    answers = figures.Answers(folder, exercises.read(folder), composer, eye)
    return figures.measured(answers, sections)


def test_every_exercise_is_a_command_with_a_seed_and_a_model_of_the_family(asked: Path) -> None:
    found = exercises.read(asked)
    commands = {"generate", "fill", "edit", "control", "vary"}
    assert {one.arguments[0] for one in found} == commands
    assert all("--seed" in one.arguments for one in found)
    models = {one.arguments[one.arguments.index("--model") + 1] for one in found}
    assert models == {"tiny", "tiny-schnell", "tiny-fill", "tiny-kontext"}
    assert len({one.file for one in found}) == len(found)


def test_the_thing_is_there_before_a_removal_and_not_before_it_is_asked_for(
    asked: Path, composer: Composer
) -> None:
    for way in exercises.FILL_WAYS:
        columns = exercises.columns_of(asked, f"fill_{way}")
        before, mask = exercises.holes(composer, columns)
        after = composer(lessons.part(columns, pairs.AFTER), SIZE)
        inside = ((before - after).abs().amax(-1, keepdim=True) * mask).flatten(1).amax(1)
        assert bool((inside > 0.1).all()), way
        outside = (before - after).abs() * (1 - mask)
        assert float(outside.mean()) < 0.01, way


def test_the_truth_is_perfect_wherever_no_judge_is_asked(
    asked: Path, composer: Composer, eye: judge.Judge
) -> None:
    sections = [f"fill_{way}" for way in exercises.FILL_WAYS] + ["canny", "depth"]
    sections += [f"kontext_{kind}" for kind in edits.KINDS]
    for section in sections:
        answer(asked, composer, section, is_right=True)
    found = measured(asked, composer, eye, *sections)
    for way in ("remove", "remove_intent"):
        assert found[f"fill_{way}"]["gone"] == 1.0
    for way in exercises.FILL_WAYS:
        assert abs(found[f"fill_{way}"]["seam_of_255"]) < 0.5
    for kind in edits.KINDS:
        assert found[f"kontext_{kind}"]["kept_db"] > 40
        assert found[f"kontext_{kind}"]["done"] == found[f"kontext_{kind}"]["judge_done"]
    assert found["canny"]["edge_f1"] > 0.99
    assert found["depth"]["outlines_found"] > 0.8
    assert (asked / "sheets" / "canny.jpg").is_file()


def test_grey_pictures_are_found_out(asked: Path, composer: Composer, eye: judge.Judge) -> None:
    for section in ("fill_remove", "kontext_recolour", "canny", "depth"):
        answer(asked, composer, section, is_right=False)
    found = measured(asked, composer, eye, "fill_remove", "kontext_recolour", "canny", "depth")
    assert found["fill_remove"]["gone"] < 1.0
    assert found["kontext_recolour"]["kept_db"] < 20
    assert found["canny"]["edge_f1"] == 0.0
    assert found["depth"]["outlines_found"] == 0.0


def test_the_judge_sees_in_the_truth_what_it_sees_in_an_answer_that_is_the_truth(
    asked: Path, composer: Composer, eye: judge.Judge
) -> None:
    for section in ("prompts", "schnell"):
        answer(asked, composer, section, is_right=True)
    found = measured(asked, composer, eye, "prompts", "schnell")
    assert found["prompts"] == found["judge"]
    assert found["schnell"] == found["judge"] | {"share_of_dev": found["schnell"]["share_of_dev"]}
    assert found["schnell"]["share_of_dev"] in (0.0, 1.0)


def test_the_depth_that_was_seen_is_ranked_against_the_map(
    asked: Path, composer: Composer, eye: judge.Judge
) -> None:
    answer(asked, composer, "depth", is_right=True)
    assert "rank_correlation" not in measured(asked, composer, eye, "depth")["depth"]
    for one in exercises.read(asked):
        if one.section == "depth":
            given = (asked / f"depth/given-{one.index:03}.png").read_bytes()
            (asked / one.looked).write_bytes(given)
    assert measured(asked, composer, eye, "depth")["depth"]["rank_correlation"] > 0.99


def test_a_picture_that_did_not_come_is_black_and_wrong(
    asked: Path, composer: Composer, eye: judge.Judge
) -> None:
    answer(asked, composer, "sizes", is_right=True)
    missing = next(one for one in exercises.read(asked) if one.group == "256x128")
    (asked / missing.file).unlink()
    answers = figures.Answers(asked, exercises.read(asked), composer, eye)
    pictures = answers.pictures("sizes", "256x128")
    assert pictures.shape[1:] == (128, 256, 3)
    assert float(pictures[missing.index].max()) == 0.0
