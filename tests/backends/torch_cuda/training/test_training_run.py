"""The whole training, in miniature: every stage runs, a cut run goes on, and what is exported loads."""

import dataclasses
import json
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.training import assemble, checkpoint, evaluate, export, mend, warm
from backends.torch_cuda.training.autoencoder import AutoencoderTraining
from backends.torch_cuda.training.distil import Distillation
from backends.torch_cuda.training.plan import Plan
from backends.torch_cuda.training.stages import Run
from flux_core.catalog import TINY, AutoencoderConfig, ClipTextConfig, T5Config, TransformerConfig
from flux_core.request import Precision
from flux_core.weights.components import load_clip, load_decoder, load_encoder, load_t5, load_transformer
from tests.support.training_pack import disc_pack

SMALL = dataclasses.replace(
    TINY,
    transformer=TransformerConfig(
        hidden_size=64,
        num_heads=2,
        depth=1,
        depth_single=1,
        mlp_hidden=64,
        context_in_dim=32,
        vec_in_dim=32,
        axes_dim=(8, 12, 12),
    ),
    autoencoder=AutoencoderConfig(channels=32, channel_multipliers=(1, 1, 1, 1), num_res_blocks=1),
    t5=T5Config(vocab_size=2048, d_model=32, num_heads=2, d_kv=16, d_ff=32, num_layers=1),
    clip=ClipTextConfig(vocab_size=2048, hidden_size=32, num_heads=2, mlp_hidden=32, num_layers=1),
)
PLAN = Plan(
    judge_s=0.1,
    autoencoder_s=0.1,
    text_s=0.1,
    flow_s=0.2,
    distil_s=0.1,
    batch_small=2,
    batch_large=2,
    pool_small=2,
    pool_large=2,
    pool_wide=2,
    pool_rare=2,
    sentences=8,
    pool_chunk=2,
    held_out=2,
    mend_s=0.1,
    mend=mend.Mending(batch_size=2, side_px=128, other_sides_px=(64, 192)),
    autoencoder=AutoencoderTraining(batch_size=2, crop_px=64),
    distil=Distillation(
        small_count=3,
        large_count=3,
        sizes_px=((128, 128), (64, 96)),
        walk_steps=(1, 3),
        texts=4,
        texts_chunk=2,
        texts_every=1,
    ),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    pack = folder / "pack.npz"
    disc_pack().save(pack)
    run = Run(PLAN, pack, folder / "work", folder / "out", deadline_s=600, spec=SMALL)
    (folder / "out").mkdir()
    try:
        for stage in ("judge", "autoencoder", "text", "flow", "distil", "export"):
            getattr(run, stage)()
    finally:
        run.source.close()
    return folder


def test_compiling_ahead_runs_every_stage_and_leaves_nothing(tmp_path):
    pack = tmp_path / "pack.npz"
    disc_pack().save(pack)
    run = Run(PLAN, pack, tmp_path / "work", tmp_path / "out", deadline_s=600, spec=SMALL)
    try:
        warm.compile_autoencoder(SMALL, PLAN, run.source)
        warm.compile_flow(SMALL, PLAN, run.source, run.empty(), run.sentences(), num_steps=1)
    finally:
        run.source.close()
    assert not (tmp_path / "work").exists()


def test_every_stage_leaves_a_checkpoint(trained):
    names = {path.name for path in (trained / "work").glob("*.safetensors")}
    assert names == {f"{name}.safetensors" for name in ("judge", "ae", "flow_start", "flow", "distilled")}


def test_the_flow_checkpoint_holds_everything_that_an_exact_restart_needs(trained):
    tensors, facts = checkpoint.load(trained / "work" / "flow.safetensors", torch.device("cpu"))
    kinds = {name.split("/", 1)[0] for name in tensors}
    assert kinds == {"live", "mean", "optimiser"}
    assert facts["step"] >= 1
    assert facts["used_s"] > 0


def test_the_exported_files_load_strictly_as_the_model(trained):
    numbers = assemble.assemble(trained / "out" / "export", trained / "model")
    assert numbers["scale"] > 0
    assert numbers["is_guidance_distilled"]
    backend = TorchBackend("cpu")
    for load in (load_transformer, load_encoder, load_decoder, load_t5, load_clip):
        load(SMALL, trained / "model", backend, Precision.FP32)
    rows = json.loads((trained / "model" / "latent_rgb.json").read_text())
    assert [len(row) for row in rows] == [3] * 17


def test_the_flow_stage_leaves_a_whole_export_on_the_way(trained):
    numbers = assemble.assemble(trained / "out" / "insurance", trained / "on_the_way")
    assert not numbers["is_guidance_distilled"]
    load_transformer(SMALL, trained / "on_the_way", TorchBackend("cpu"), Precision.FP32)
    assert not list((trained / "out").glob("*.new"))


def test_a_run_on_the_autoencoder_that_ships_leaves_it_as_it_is(trained, tmp_path):
    model = tmp_path / "model"
    numbers = assemble.assemble(trained / "out" / "export", model)
    ae = dataclasses.replace(SMALL.autoencoder, shift=numbers["shift"], scale=numbers["scale"])
    spec = dataclasses.replace(SMALL, autoencoder=ae)
    before = (model / SMALL.files.autoencoder).read_bytes()
    run = Run(PLAN, trained / "pack.npz", tmp_path / "work", tmp_path / "out", 600, spec, bundled=model)
    try:
        for stage in ("adopt", "text", "flow", "export"):
            getattr(run, stage)()
        assert run.config() == ae
    finally:
        run.source.close()
    assert not list((tmp_path / "out" / "export").glob("ae.*.safetensors"))
    assert assemble.assemble(tmp_path / "out" / "export", model) == numbers | {"is_guidance_distilled": False}
    assert (model / SMALL.files.autoencoder).read_bytes() == before


def test_mending_leaves_the_encoder_as_it_is_and_a_whole_file(trained, tmp_path):
    model = tmp_path / "model"
    assemble.assemble(trained / "out" / "export", model)
    run = Run(PLAN, trained / "pack.npz", tmp_path / "work", tmp_path, 600, SMALL, bundled=model)
    try:
        run.mend()
    finally:
        run.source.close()
    before = export.read(model / SMALL.files.autoencoder, torch.device("cpu"))
    after = load_file(tmp_path / "mended" / "ae.0.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name].to(torch.bfloat16), after[name])}
    assert changed
    assert all(name.startswith("decoder.") for name in changed)


def test_the_border_weighs_more_and_the_corners_most():
    weights = mend.border(64, mend.Mending(border_px=8, border_weight=2.0, corner_weight=6.0), "cpu")[..., 0]
    assert weights[20:40, 20:40].max() == 0
    assert weights[7, 30] == weights[30, 56] == 2.0
    assert weights[7, 7] == weights[63, 0] == 6.0
    assert weights[8, 30] == 0


def test_stages_end_so_early_that_what_follows_them_has_its_time(trained, tmp_path):
    plan = dataclasses.replace(
        PLAN, flow_s=1e3, distil_s=1e3, after_flow_s=57.0, after_distil_s=57.0, start_s=0.1
    )
    work = tmp_path / "work"
    shutil.copytree(trained / "work", work)
    for name in ("flow.safetensors", "flow.json", "distilled.safetensors"):
        (work / name).unlink()
    run = Run(plan, trained / "pack.npz", work, tmp_path / "out", deadline_s=600, spec=SMALL)
    try:
        for stage in (run.flow, run.distil):
            run._end = time.monotonic() + 60
            stage()
            assert 40 < run.left_s < 58  # neither the stage's own length nor up to the deadline
    finally:
        run.source.close()
    assert (work / "distilled.safetensors").exists()


def test_evaluation_leaves_figures_of_both_nets_and_sheets(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(
        evaluate, "SETTINGS", tuple(s._replace(num_steps=1, side_px=64) for s in evaluate.SETTINGS[:2])
    )
    run = Run(PLAN, trained / "pack.npz", trained / "work", tmp_path, deadline_s=600, spec=SMALL)
    try:
        run.evaluate()
    finally:
        run.source.close()
    facts = json.loads((tmp_path / "figures.json").read_text())
    assert facts["is_guidance_distilled"]
    assert set(facts["figures"]) == {"64px_1steps_g3.5", "base_64px_1steps_g3.5"}
    assert {path.name for path in tmp_path.glob("*.jpg")} == {
        *("64px_1steps_g3.5.jpg", "base_64px_1steps_g3.5.jpg", "objects.jpg", "prompts.jpg"),
    }
