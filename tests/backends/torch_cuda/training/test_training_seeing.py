"""The small CLIP and depth estimator, in miniature: what texts claim, what losses ask, what is exported."""

import contextlib
import dataclasses
from random import Random

import numpy as np
import pytest
import torch
from torch.nn import functional

from backends.torch_cuda import vision
from backends.torch_cuda.training import checkpoint
from backends.torch_cuda.training.clock import Stage
from backends.torch_cuda.training.data import feed
from backends.torch_cuda.training.data.palette import COLOURS, OTHER_WORDS
from backends.torch_cuda.training.data.scenes import BACKGROUNDS, PLACES, Sampler
from backends.torch_cuda.training.data.word_ids import Words
from backends.torch_cuda.training.flow import RunState
from backends.torch_cuda.training.members import clip, estimator, phrases
from backends.torch_cuda.training.members.clip import ClipTraining
from backends.torch_cuda.training.members.estimator import EstimatorTraining
from backends.torch_cuda.training.members.plan import MemberPlan
from backends.torch_cuda.training.members.stages import MemberRun
from backends.torch_cuda.training.plan import Plan
from flux_core.looking import Depth, Score
from flux_core.reporting import Report
from tests.support.training_pack import disc_pack

pytest.importorskip("transformers")

CLIP = ClipTraining(
    vision_width=32, vision_mlp=32, vision_layers=1, text_width=24, text_mlp=24, text_layers=1, dim=16,
    batch_size=6, pool=8, pool_chunk=4, renew_every=1, sizes_px=((128, 128), (64, 96)),
)  # fmt: skip
ESTIMATOR = EstimatorTraining(
    side_px=64, width=24, num_layers=4, neck=(8, 8, 8, 8), fusion_width=8, head_width=8,
    batch_size=2, pool=2, pool_chunk=2, renew_every=1, sizes_px=((64, 64), (64, 96)),
)  # fmt: skip
PLAN = MemberPlan(
    clip_s=0.05, estimator_s=0.05, evaluate_s=1.0, start_s=0.0, clip=CLIP, estimator=ESTIMATOR,
    base=Plan(held_out=4),
)  # fmt: skip
FOLDERS = {"clip": "clip", "estimator": "depth-estimator"}


@pytest.fixture(scope="module")
def sampler():
    return Sampler(disc_pack())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeing")
    disc_pack().save(folder / "pack.npz")
    (folder / "out").mkdir()
    run = MemberRun(PLAN, folder / "pack.npz", folder / "work", folder / "out", 600)
    try:
        for stage in FOLDERS:
            getattr(run, stage)()
        yield folder, run
    finally:
        run.source.close()


def row(**labels: int) -> torch.Tensor:
    return torch.tensor([[labels.get(name, -1) for name in feed.LABELS]])


def judged(claim: torch.Tensor, label: torch.Tensor, is_loose: bool = False) -> str:
    """How a text that was said of another picture stands to one with these labels."""
    other = row(object=90, background=0, background_colour=0, style=0, count=0, place=0)
    right, wrong = clip.judged(
        torch.cat([other, claim]), torch.tensor([False, is_loose]), torch.cat([label, other])
    )
    return "right" if right[0, 1] else "wrong" if wrong[0, 1] else "unknown"


RED, BLUE = COLOURS.index("red"), COLOURS.index("blue")
SOLID, STRIPES, DOTS = (BACKGROUNDS.index(name) for name in ("solid", "stripes", "dots"))
LEFT, TOP_LEFT, RIGHT = (PLACES.index(name) for name in ("left", "top left", "right"))
APPLE = {
    "object": 0, "colour": RED, "style": 0, "background": SOLID, "background_colour": BLUE,
    "place": LEFT, "count": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("claims", "shown", "stands"),
    [
        ({"object": 0}, APPLE, "right"),
        ({"object": 0, "colour": RED}, APPLE, "right"),
        ({"object": 0, "colour": BLUE}, APPLE, "wrong"),
        ({"object": 1}, APPLE, "wrong"),
        ({"object": 0, "colour": RED}, APPLE | {"colour": -1}, "unknown"),
        ({"object": 0, "colour": RED}, {**APPLE, "object": 3, "second": 0, "second_colour": RED}, "right"),
        ({"object": 0, "colour": RED}, {**APPLE, "object": 3, "second": 0, "second_colour": BLUE}, "wrong"),
        ({"object": 0, "second": 3}, {**APPLE, "object": 3, "second": 0}, "unknown"),
        ({"object": 0, "second": 3}, APPLE, "wrong"),
        ({"background": SOLID, "background_colour": BLUE}, APPLE, "right"),
        ({"background": SOLID, "background_colour": RED}, APPLE, "wrong"),
        ({"background": SOLID, "background_colour": BLUE}, APPLE | {"background": DOTS}, "unknown"),
        (
            {"background": STRIPES, "background_colour": RED, "background_second": BLUE},
            APPLE | {"background": STRIPES, "background_second": RED},
            "right",
        ),
        ({"place": LEFT}, APPLE, "right"),
        ({"place": LEFT}, APPLE | {"place": TOP_LEFT}, "unknown"),
        ({"place": RIGHT}, APPLE, "wrong"),
        ({"style": 0}, APPLE, "right"),
        ({"style": 2}, APPLE, "wrong"),
        ({"object": 0, "colour": -1, "style": 2}, APPLE, "wrong"),
    ],
)
def test_a_text_is_right_wrong_or_neither_about_another_picture(claims, shown, stands):
    assert judged(row(**claims), row(**shown)) == stands


def test_a_text_that_may_leave_things_out_is_only_wrong_where_no_object_is_shared():
    said = row(**APPLE)
    assert judged(said, row(**APPLE | {"background_colour": RED}), is_loose=True) == "unknown"
    assert judged(said, row(**APPLE | {"object": 5}), is_loose=True) == "wrong"


def test_every_text_is_right_about_its_own_scene_by_its_claims_alone(sampler):
    columns = phrases.told(sampler, Words(), Random(5), 64)
    label = torch.from_numpy(columns["label"]).long()
    for kind in range(len(phrases.KINDS)):
        claim = torch.from_numpy(columns["claim"][:, kind]).long()
        shifted = clip.judged(claim.roll(1, 0), torch.zeros(64, dtype=torch.bool), label.roll(-1, 0))
        index = torch.arange(64)
        assert bool(shifted[0][index, (index + 2) % 64].all()), phrases.KINDS[kind]


def test_parts_say_what_they_claim(sampler):
    rng = Random(6)
    words = Words()
    for _ in range(200):
        scene = sampler.scene(rng)
        columns = feed.arrays(sampler, [scene], ["a picture of an apple"], words)
        labels = dict(zip(feed.LABELS, map(int, columns["label"][0]), strict=True))
        for part in phrases.parts(scene, labels, rng):
            words.encode(part.text)
            assert all(labels[name] == value for name, value in part.claims.items())
            said = {COLOURS[value] for name, value in part.claims.items() if "colour" in name and value >= 0}
            assert all(name in part.text or OTHER_WORDS.get(name, name) in part.text for name in said), part


def test_the_contrast_is_that_of_clip_where_every_text_is_right_once():
    logits = torch.randn(7, 7, generator=torch.Generator().manual_seed(0))
    own = torch.eye(7, dtype=torch.bool)
    target = torch.arange(7)
    usual = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
    assert clip.contrast(logits, own, ~own).item() == pytest.approx(usual.item(), rel=1e-5)


def test_a_pair_that_nobody_can_judge_changes_no_weight():
    logits = torch.randn(3, 3, requires_grad=True)
    own = torch.eye(3, dtype=torch.bool)
    wrong = ~own
    wrong[0, 2] = False
    clip.contrast(logits, own, wrong).backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] == 0
    assert (logits.grad[0, 1], logits.grad[2, 0]) > (0, 0)


def test_a_map_of_another_scale_and_offset_costs_nothing_once_aligned():
    truth = torch.rand(2, 16, 16)
    found = truth * torch.tensor([2.0, 7.0])[:, None, None] + 3
    assert torch.allclose(estimator.aligned(found, truth), truth, atol=1e-3)
    assert estimator.steepness(estimator.aligned(found, truth) - truth) < 1e-3


def test_a_map_that_is_inside_out_is_not_turned_over():
    truth = torch.rand(2, 16, 16)
    middle = truth.mean((1, 2), keepdim=True).expand_as(truth)
    assert torch.allclose(estimator.aligned(-truth, truth), middle, atol=1e-6)


def test_ranks_agree_with_a_plain_count_and_equal_values_share_theirs():
    truth = torch.tensor([[[0, 0, 5], [7, 7, 9]]])
    ranks = [0.5, 0.5, 2, 3.5, 3.5, 5]
    other, places = torch.tensor([[[3, 1, 5], [2, 7, 9]]]), [2, 0, 3, 1, 4, 5]
    assert estimator.rank_correlation(truth, truth).item() == pytest.approx(1.0)
    assert estimator.rank_correlation(255 - truth, truth).item() == pytest.approx(-1.0)
    plain = float(np.corrcoef(ranks, places)[0, 1])
    assert estimator.rank_correlation(other, truth).item() == pytest.approx(plain)


def test_an_estimator_that_is_shut_for_every_pixel_opens_again():
    net = estimator.build(ESTIMATOR, torch.device("cpu"))
    with torch.no_grad():
        net.head.conv3.bias.fill_(-20.0)
    before = net.head.conv3.bias.item()
    seen, depth = torch.zeros(1, 64, 64, 3).byte(), torch.full((1, 64, 64), 200).byte()
    state = RunState(dict(net.named_parameters()), ESTIMATOR.lr)
    stage = Stage("estimator", 60.0, num_steps=2)
    estimator.train(net, lambda step: (seen, depth), ESTIMATOR, stage, contextlib.nullcontext, state)
    assert net.head.conv3.bias.item() > before


def test_exported_folders_answer_looks(trained):
    folder, _ = trained
    export = folder / "out" / "export"
    picture = np.full((96, 160, 4), 255, np.uint8)
    picture[20:60, 30:90, :3] = (200, 30, 30)

    def ask(look):
        report = Report(lambda message: None, lambda: False)
        return vision.look(look, [picture], lambda model: export / model, torch.device("cpu"), report)

    scored = ask(Score(prompt="a red apple, blue background", model="clip")).findings[0]
    assert [each.phrase for each in scored.phrases] == ["a red apple", "blue background"]
    assert -1 <= scored.similarity <= 1
    found = ask(Depth(model="depth-estimator"))
    assert found.pictures[0].shape == (96, 160)


def test_the_exported_tokenizer_gives_the_ids_that_training_saw(trained):
    from transformers import AutoTokenizer

    folder, _ = trained
    tokenizer = AutoTokenizer.from_pretrained(folder / "out" / "export" / "clip")
    for text in ("a red apple, blue background", "3D render of two cars on the left side."):
        _, ids, end = Words().encode(text)
        assert tokenizer(text).input_ids == ids[: end + 1]


def test_a_cut_stage_goes_on_from_its_weights(trained):
    folder, run = trained
    for name in FOLDERS:
        _, before = checkpoint.load(folder / "work" / f"{name}.safetensors", run.device)
        more_s = before["used_s"] + 0.5
        run.numbers = dataclasses.replace(PLAN, clip_s=more_s, estimator_s=more_s)
        try:
            getattr(run, name)()
        finally:
            run.numbers = PLAN
        _, after = checkpoint.load(folder / "work" / f"{name}.safetensors", run.device)
        assert after["step"] > before["step"]


def test_both_are_measured(trained):
    _, run = trained
    run.export()
    run.evaluate()
    text = (run.out / "figures.json").read_text()
    for figure in ("caption_first", "object_phrase", "background_colour_phrase", "spearman"):
        assert f'"{figure}"' in text
