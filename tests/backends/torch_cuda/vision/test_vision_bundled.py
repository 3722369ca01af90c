"""The small helpers that come with Flowbrush answer where nothing better is; sizes are those that ship."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backends.torch_cuda.helpers import TorchHelpers
from backends.torch_cuda.training.members import clip, estimator
from backends.torch_cuda.training.members.clip import ClipTraining
from backends.torch_cuda.training.members.estimator import EstimatorTraining
from backends.torch_cuda.training.stages import BUNDLED
from backends.torch_cuda.vision import library
from flux_core.catalog import bytes_in
from flux_core.errors import Corrupt, ModelMissing
from flux_core.looking import Depth, Embed, Score
from flux_core.reporting import Report
from flux_core.request import ControlKind, ControlUse, GenerationRequest, Task
from tests.support import vision_folders
from tests.support.vision_folders import pixels

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Both as training writes them, with weights that know nothing."""
    folder = tmp_path_factory.mktemp("bundled")
    nets = clip.build(ClipTraining(), CPU), estimator.build(EstimatorTraining(), CPU)
    states = [dict(net.named_parameters()) for net in nets]
    clip.write(folder / "tiny-clip", ClipTraining(), states[0], BUNDLED / "tokenizer")
    estimator.write(folder / "tiny-depth", EstimatorTraining(), states[1])
    return folder


@pytest.fixture
def put(shelf, tmp_path):
    """Puts both into the folder of models."""
    for name in ("tiny-clip", "tiny-depth"):
        (tmp_path / name).symlink_to(shelf / name)


def test_they_are_small(shelf):
    assert bytes_in(shelf / "tiny-clip") < 2.2e6
    assert bytes_in(shelf / "tiny-depth") < 1.2e6


def test_scores_embeddings_and_depth_come_from_them_where_nothing_else_is(put, ask):
    picture = pixels(60, 100)
    scored = ask(Score(prompt="a red apple, blue background"), picture, picture)
    assert {each.model for each in scored.findings} == {"tiny-clip"}
    assert [len(each.phrases) for each in scored.findings] == [2, 2]
    assert len(ask(Embed(), picture).findings[0].values) == ClipTraining().dim
    found = ask(Depth(), picture)
    assert found.findings[0].model == "tiny-depth"
    assert found.pictures[0].shape == (60, 100)


def test_a_helper_that_a_person_gets_is_taken_before_them(put, have, ask):
    have("depth-anything-v2-small", vision_folders.depth_anything)
    assert ask(Depth(), pixels(60, 60)).findings[0].model == "depth-anything-v2-small"


def test_a_depth_map_for_a_control_request_needs_no_download(put, tmp_path):
    helpers = TorchHelpers(CPU, (tmp_path,))
    helpers.check(_control_request())
    made = helpers.control_map(ControlKind.DEPTH, pixels(64, 96), Report(lambda message: None, lambda: False))
    assert made.shape == (64, 96, 4)
    assert np.array_equal(made[..., 0], made[..., 2])


def test_a_control_request_without_the_library_is_refused_before_anything_is_loaded(
    put, tmp_path, monkeypatch
):
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelMissing) as err:
        TorchHelpers(CPU, (tmp_path,)).check(_control_request())
    assert err.value.hint == "Install it with `pip install flowbrush[vision]`."


def test_a_damaged_one_says_to_install_flowbrush_again(shelf, tmp_path, ask):
    (tmp_path / "tiny-depth").mkdir()
    for file in (shelf / "tiny-depth").iterdir():
        (tmp_path / "tiny-depth" / file.name).write_bytes(file.read_bytes()[:2000])
    with pytest.raises(Corrupt) as err:
        ask(Depth(), pixels(60, 60))
    assert err.value.hint == "It comes with Flowbrush: install Flowbrush again."


def _control_request() -> GenerationRequest:
    use = ControlUse(kind=ControlKind.DEPTH, image="0" * 64, is_map=False)
    return GenerationRequest(task=Task.CONTROL, prompt="a cat", controls=(use,))
