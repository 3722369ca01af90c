"""The whole training, in miniature: every stage runs, a cut run goes on, and what is exported loads."""

import dataclasses
import json

import pytest
import torch

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.training import assemble, checkpoint, warm
from backends.torch_cuda.training.autoencoder import AutoencoderTraining
from backends.torch_cuda.training.distil import Distillation
from backends.torch_cuda.training.plan import Plan
from backends.torch_cuda.training.run import Run
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
    pool_chunk=2,
    held_out=2,
    autoencoder=AutoencoderTraining(batch_size=4, crop_px=64),
    distil=Distillation(small_count=3, large_count=3, sizes_px=((128, 128), (64, 96)), walk_steps=(1, 3)),
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
        warm.compile_ahead(SMALL, PLAN, run.source, run.empty(), num_steps=4)
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
    numbers = assemble.assemble(trained / "out", trained / "model")
    assert numbers["scale"] > 0
    backend = TorchBackend("cpu")
    for load in (load_transformer, load_encoder, load_decoder, load_t5, load_clip):
        load(SMALL, trained / "model", backend, Precision.FP32)
    rows = json.loads((trained / "model" / "latent_rgb.json").read_text())
    assert [len(row) for row in rows] == [3] * 17
