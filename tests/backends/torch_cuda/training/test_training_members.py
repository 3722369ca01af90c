"""The members' training, in miniature: pairs are true, maps are the engine's, and what is exported loads."""

import dataclasses
import shutil
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.training import flow
from backends.torch_cuda.training.data import edits, pairs
from backends.torch_cuda.training.data.feed import LABELS
from backends.torch_cuda.training.data.scenes import Sampler
from backends.torch_cuda.training.data.word_ids import Words
from backends.torch_cuda.training.members import evaluate, lessons, maps, measures, tools
from backends.torch_cuda.training.members.few_steps import FewSteps
from backends.torch_cuda.training.members.lowrank import LowRank
from backends.torch_cuda.training.members.pictures import FastDecoding, ReduxTraining
from backends.torch_cuda.training.members.plan import MemberPlan
from backends.torch_cuda.training.members.stages import MemberRun
from backends.torch_cuda.training.members.tools import ToolTraining
from backends.torch_cuda.training.plan import Plan
from backends.torch_cuda.training.scenes import to_device
from flux_core.catalog import SiglipConfig
from flux_core.conditioning.fill import mask_tokens
from flux_core.imaging.edges import canny_map
from flux_core.request import Precision
from flux_core.weights.extra_components import load_redux, load_siglip, load_taef1_decoder
from flux_core.weights.lora.read import read_lora
from flux_core.weights.open import open_source
from tests.backends.torch_cuda.training.test_training_run import SMALL
from tests.support.training_pack import disc_pack

TOOL = ToolTraining(
    rank=4, batch_small=2, batch_large=2, pool_small=2, pool_large=2, pool_chunk=2, renew_every=2,
    sizes_px=((64, 64), (64, 96)),
)  # fmt: skip
PLAN = MemberPlan(
    **dict.fromkeys(("judge_s", "fast_s", "fill_s", "kontext_s", "schnell_s", "canny_s", "depth_s"), 0.05),
    redux_s=0.05, evaluate_s=1.0, start_s=0.1, held_out=3, fill=TOOL, kontext=TOOL, canny=TOOL, depth=TOOL,
    schnell=FewSteps(
        rank=4, fine_steps=2, small_count=2, large_count=2, texts=2, texts_chunk=2,
        sizes_px=((64, 64), (64, 96)),
    ),
    redux=ReduxTraining(
        width=32, num_layers=1, mlp_hidden=32, pool=2, pool_chunk=2, batch_size=2, side_px=64
    ),
    fast=FastDecoding(width=8, batch_size=4, side_px=64),
    base=Plan(batch_large=4, held_out=2),
)  # fmt: skip
CHANGED = "live/img_in.lora_B.weight"
STAGES = ("judge", "fast", "fill", "kontext", "schnell", "canny", "depth", "redux")


@pytest.fixture(scope="module")
def sampler():
    return Sampler(disc_pack())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    disc_pack().save(folder / "pack.npz")
    bundled = folder / "base"
    nets = flow.build(SMALL, torch.device("cpu"))
    files = SMALL.files
    states = dict(zip((files.transformer, files.t5, files.clip), nets, strict=True))
    from backends.torch_cuda.training import autoencoder

    ae = autoencoder.build(SMALL.autoencoder, torch.device("cpu"), is_compiled=False)
    for place, state in {
        **{k: net.state() for k, net in states.items()},
        files.autoencoder: ae.state(),
    }.items():
        (bundled / place).parent.mkdir(parents=True, exist_ok=True)
        save_file({name: p.contiguous() for name, p in state.items()}, bundled / place)
    (folder / "out").mkdir()
    run = MemberRun(PLAN, folder / "pack.npz", folder / "work", folder / "out", 600, SMALL, bundled)
    try:
        for stage in STAGES:
            getattr(run, stage)()
        yield folder, run
    finally:
        run.source.close()


def test_every_edit_changes_what_its_kind_says_and_nothing_else(sampler):
    rng = Random(3)
    for kind in edits.KINDS:
        for _ in range(60):
            made = edits.edit(sampler, rng, kind)
            before, after = made.before, made.after
            assert (len(after.items) - len(before.items)) == {"add": 1, "remove": -1}.get(kind, 0)
            assert (before.style != after.style) == (kind == "style")
            behind = [(scene.background, scene.rgb) for scene in (before, after)]
            assert (behind[0] != behind[1]) == (kind == "background")
            if kind in ("recolour", "replace"):
                assert sum(a != b for a, b in zip(before.items, after.items, strict=True)) == 1


def test_every_word_of_an_instruction_is_in_the_table(sampler):
    words, rng = Words(), Random(4)
    for _ in range(300):
        words.encode(edits.edit(sampler, rng).text)


def test_a_removal_shows_the_background_where_its_hole_is(sampler, trained):
    _, run = trained
    arrays = to_device(pairs.fill_pairs(sampler, Words(), Random(5), 8, "remove"), run.device)
    shown = lessons.show_fill(run.source, arrays, (64, 64))
    _, covered = run.source.composer.with_masks(lessons.part(arrays, pairs.AFTER), (64, 64))
    _, hidden = run.source.composer.with_masks(lessons.part(arrays, pairs.OTHER), (64, 64))
    assert bool((shown.mask >= (hidden > 0.1)).all())
    assert float((covered * (hidden > 0.5)).mean()) < 0.02
    grey = shown.seen[shown.mask.expand_as(shown.seen) > 0.5]
    assert torch.equal(grey, torch.full_like(grey, 0.5))


def test_what_is_added_alone_comes_where_the_words_say_or_to_the_middle(sampler):
    rng, placed = Random(6), 0
    for _ in range(200):
        made = edits.edit(sampler, rng, "add")
        if made.before.items:
            assert made.text.rpartition(" on the ")[2].startswith(("left", "right"))
            continue
        says_where = made.after.place > 0
        placed += says_where
        assert ("place" in made.asked) or not says_where
        assert any(f" {word}" in made.text for word in ("on the", "at the", "in the")) or not says_where
    assert placed > 20


def test_a_piece_round_a_small_hole_is_enlarged_twice_and_no_more():
    truth = torch.rand(16, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(16, 64, 64, 1)
    mask[:, 28:36, 28:36] = 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        near = lessons.nearer(lessons.Shown(truth, truth * (1 - mask), mask), (64, 64))
    assert near.mask is not None
    assert set(near.mask.flatten(1).sum(1).sqrt().tolist()) == {8.0, 16.0}  # whole, and a piece


def test_a_piece_round_a_hole_shows_all_of_it(sampler, trained):
    _, run = trained
    arrays = to_device(pairs.fill_pairs(sampler, Words(), Random(7), 24, "around"), run.device)
    whole = lessons.show_fill(run.source, arrays, (288, 288))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        near = lessons.nearer(whole, (192, 192))
    share_whole, share_near = (shown.mask.flatten(1).mean(1) for shown in (whole, near))
    enlarged = (share_near / share_whole).sqrt()
    assert float(enlarged.min()) > 0.97
    assert float(enlarged.max()) < 2.1
    assert float(enlarged.max()) > 1.2
    assert set(near.mask.unique().tolist()) <= {0.0, 1.0}
    grey = near.seen[near.mask.expand_as(near.seen) > 0.5]
    assert torch.equal(grey, torch.full_like(grey, 0.5))


def test_a_new_thing_of_another_shape_is_no_damage_but_a_changed_rest_is():
    before = torch.full((3, 64, 64, 3), 0.5)
    truth = before.clone()
    truth[:, 20:36, 20:36] = 1.0
    made = before.clone()
    made[0, 20:48, 22:38] = 1.0  # taller than the truth, which reaches 12 rows further than may be excused
    made[1, 20:36, 20:36] = 1.0
    made[1, 52:60, 2:10] = 0.0  # and something else changed
    made[2] = 0.8  # everything changed
    kept = measures.kept_db(made, before, truth, has_own_shape=True) >= measures.KEPT_DB
    assert kept.tolist() == [True, False, False]
    assert not bool(measures.kept_db(made, before, truth)[0] >= measures.KEPT_DB)


def test_masks_become_the_tokens_that_inference_makes():
    mask = (np.random.default_rng(0).random((2, 64, 96, 1)) > 0.5).astype(np.float32)
    ours = maps.mask_tokens(torch.from_numpy(mask)).numpy()
    assert np.array_equal(ours[1:], mask_tokens(mask[1:]))


@pytest.mark.parametrize("thresholds", [(50.0, 200.0), (90.5, 180.5)])
def test_edges_are_those_of_the_engines(thresholds):
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 255, (1, 48, 64, 3), dtype=np.uint8)
    smooth = np.kron(rng.integers(0, 255, (1, 6, 8, 3), dtype=np.uint8), np.ones((1, 8, 8, 1), np.uint8))
    for picture in (noise, smooth):
        found = maps.edges(torch.from_numpy(picture).float() / 255, *thresholds)[0]
        assert np.array_equal((found * 255).byte().numpy(), canny_map(picture[0], *thresholds))


def test_depth_has_the_later_object_in_front_of_the_earlier_and_both_before_the_background():
    covers = torch.zeros(1, 3, 32, 32)
    covers[0, 0, 8:24, 4:16] = 1
    covers[0, 1, 8:24, 16:28] = 1
    depth = maps.depths(torch.zeros(1).long(), torch.zeros(1, 3), covers)[0, ..., 0]
    assert depth[0, 0] == 0
    assert 0 < depth[16, 10] < depth[16, 21] <= 1


def test_members_are_files_that_the_engines_read(trained):
    folder, _ = trained
    channels = {"fill": 384, "kontext": 64, "canny": 128, "depth": 128, "schnell": 64}
    for name, wide in channels.items():
        lora = read_lora(open_source(folder / "out" / "export" / f"{name}.safetensors"), SMALL, name)
        assert (lora.channels, lora.report.unmatched) == (wide, ()), name
    backend, export = TorchBackend("cpu"), folder / "out" / "export"
    like = SiglipConfig(hidden_size=32, num_heads=4, mlp_hidden=32, num_layers=1, image_px=128, patch_px=16)
    load_siglip(export / "siglip.safetensors", backend, Precision.FP32, like)
    load_redux(export / "redux.safetensors", backend, Precision.FP32)
    load_taef1_decoder(export / "fast.safetensors", backend, Precision.FP32)


def test_a_change_begins_as_the_base_itself_whatever_it_sees(trained):
    _, run = trained
    base, nets = run.bundled_nets(), run.bundled_nets()
    LowRank(nets.transformer, 4, 384)
    told = tools.Told(nets, run.tables, lessons.FILL)
    x, sigma = torch.randn(2, 16, 64), torch.full((2,), 0.5)
    txt, vec = run.tables.text(base, run.empty().expand(2))
    ours = told(x, torch.rand(2, 16, 320), txt, vec, sigma, sigma, (8, 8))
    truth = base.transformer.model(x, txt, vec, sigma, sigma, run.tables.rotary((8, 8)))
    assert torch.allclose(ours, truth, atol=1e-5)


def test_a_cut_stage_goes_on_and_one_that_had_its_time_does_not(trained):
    folder, run = trained
    before = load_file(folder / "work" / "canny.safetensors")
    run.canny()
    after = load_file(folder / "work" / "canny.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    run.numbers = dataclasses.replace(PLAN, canny_s=5.0)
    try:
        stage_s = run.numbers.share("canny", ("canny",), 600.0)
        assert stage_s == 5.0
        later = after
        for longer_s in (0.4, 1.6, 6.4):  # a busy machine needs more for a single step
            run.numbers = dataclasses.replace(PLAN, canny_s=longer_s)
            run.canny()
            later = load_file(folder / "work" / "canny.safetensors")
            if not torch.equal(before[CHANGED], later[CHANGED]):
                break
    finally:
        run.numbers = PLAN
    assert not torch.equal(before[CHANGED], later[CHANGED])


def test_too_little_time_shortens_all_members_alike():
    plan = MemberPlan()
    left = ("fill", "kontext", "evaluate")
    whole = plan.share("fill", left, 10_000.0), plan.share("kontext", left, 10_000.0)
    half = plan.share("fill", left, 478.0), plan.share("kontext", left, 478.0)
    assert whole == (plan.fill_s, plan.kontext_s)
    assert half[0] / whole[0] == pytest.approx(half[1] / whole[1])
    assert sum(half) + 2 * plan.start_s + plan.evaluate_s == pytest.approx(478.0)


def test_members_that_are_there_are_measured(trained, monkeypatch):
    monkeypatch.setattr(evaluate, "NUM_STEPS", 2)
    folder, run = trained
    for other in ("kontext", "schnell", "canny", "depth", "redux"):
        shutil.move(folder / "work" / f"{other}.safetensors", folder / f"{other}.safetensors")
    try:
        run.evaluate()
    finally:
        for other in ("kontext", "schnell", "canny", "depth", "redux"):
            shutil.move(folder / f"{other}.safetensors", folder / "work" / f"{other}.safetensors")
    text = (folder / "out" / "figures.json").read_text()
    assert '"remove_g2.0_gone"' in text
    assert '"psnr_db"' in text


def test_an_instruction_carries_what_it_says(sampler):
    made = pairs.instructions(sampler, Words(), Random(5), 300)
    names = list(LABELS)
    for kind, said in zip(made["edit"], made["label"], strict=True):
        known = {name for name, value in zip(names, said, strict=True) if value >= 0}
        assert (
            known
            <= {
                "recolour": {"object", "colour"},
                "replace": {"object", "second", "second_colour"},
                "add": {"second", "second_colour", "place"},
                "remove": {"object"},
                "background": {"background", "background_colour"},
                "style": {"style"},
            }[edits.KINDS[kind]]
        )
        assert known


def test_a_member_goes_on_from_the_file_that_ships(trained, tmp_path):
    folder, run = trained
    for row, name in (("tiny-canny-lora", "canny"), ("tiny-kontext", "kontext")):
        (tmp_path / row).mkdir()
        shutil.copy(folder / "out" / "export" / f"{name}.safetensors", tmp_path / row)
    change = LowRank(run.bundled_nets().transformer, 4, lessons.CANNY.channels)
    run._start_from(tmp_path, "canny", change.parameters)
    shipped = load_file(tmp_path / "tiny-canny-lora" / "canny.safetensors")
    assert change.parameters.keys() == shipped.keys()
    assert all(torch.equal(change.parameters[name], value.float()) for name, value in shipped.items())
