"""LoRA training: folders are judged, steps follow from their number, what is learned is what is painted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from backends.torch_cuda import processor
from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.engine import TorchEngine
from backends.torch_cuda.leaves import TorchLeaves
from backends.torch_cuda.packed import PackedWeight
from backends.torch_cuda.training.lora.__main__ import prepare
from backends.torch_cuda.training.lora.base import Base, find_base, memory_of
from backends.torch_cuda.training.lora.batches import Batches, noise_of
from backends.torch_cuda.training.lora.painting import Told
from backends.torch_cuda.training.lora.places import Places
from backends.torch_cuda.training.lora.train import Learner, rate_at, train
from backends.torch_cuda.training.lora.weights import ArtistLora
from flux_core import catalog
from flux_core.catalog import TransformerConfig
from flux_core.conditioning.packing import position_ids
from flux_core.errors import Cancelled, Corrupt, RequestInvalid
from flux_core.imaging import codec
from flux_core.lora_training import Decay, Wrote, build_training
from flux_core.models.transformer import BLOCK_MATRIX, Transformer
from flux_core.plan import Component
from flux_core.request import LoraUse, Precision
from flux_core.sampling.schedule import sigmas
from flux_core.weights.diffusers_keys import transformer_recipes
from flux_core.weights.lora.layers import layers_of
from flux_core.weights.lora.read import read_lora
from flux_core.weights.open import open_source
from flux_core.weights.quant.forms import FORMS
from flux_core.weights.quantize import quantize
from tests.support import lora_peers, published
from tests.support.engine_runs import psnr_db, run
from tests.support.tiny_random import MICRO, rewrite, write_models_dir

DEV_LIKE = dataclasses.replace(
    MICRO,
    model="dev-like",
    has_time_shift=True,
    working_side_px=1024,
    transformer=dataclasses.replace(MICRO.transformer, depth=2, depth_single=3),
)
"""As FLUX.1 dev in everything that training asks about but its size: guidance, time shift, 512 px."""


@pytest.fixture
def trained(folder, models):
    """Trains in this process: (places, fields of the request) -> what it said; stops after `stop_after`."""

    def call(places, stop_after=None, stage="Training", **fields):
        given = {
            "folder": str(folder),
            "name": "ink",
            "model": "micro",
            "num_steps": 6,
            "rank": 2,
            "batch_size": 2,
            "size_px": 64,
            "learning_rate": 0.01,
        }
        prepared = prepare(build_training(**{**given, **fields}), models, places)
        said = []

        def is_stopped():
            steps = [m.done for m in said if getattr(m, "stage", "") == stage]
            return stop_after is not None and bool(steps) and steps[-1] >= stop_after

        backend = TorchBackend("cpu")
        arguments = prepared.training, prepared.base, prepared.examples, places, backend, Precision.FP32
        return [*said, train(*arguments, said.append, is_stopped)], said

    return call


# Steps


def test_an_epoch_sees_every_picture_once_in_batches_of_one_size():
    sizes = [(64, 64), (64, 80), (64, 64), (80, 64), (64, 64), (64, 80), (64, 64)]
    batches = Batches(sizes, 2, seed=3)
    assert batches.steps_per_epoch == 4
    orders = []
    for epoch in range(3):
        chosen = [batches.at(epoch * 4 + place) for place in range(4)]
        assert sorted(i for batch in chosen for i in batch) == list(range(7))
        assert all(len({sizes[i] for i in batch}) == 1 for batch in chosen)
        orders.append(chosen)
    assert orders[0] != orders[1]
    assert Batches(sizes, 2, seed=3).at(9) == batches.at(9)


def test_noise_levels_are_those_of_the_model_s_own_schedule():
    levels = np.concatenate([noise_of(0, step, (64, 1024, 2), True)[1] for step in range(60)])
    plain = np.concatenate([noise_of(0, step, (64, 1024, 2), False)[1] for step in range(60)])
    assert np.median(plain) == pytest.approx(0.5, abs=0.02)
    middle = sigmas(2, 1024, has_time_shift=True)[1]
    assert np.median(levels) == pytest.approx(middle, abs=0.02)
    assert middle > 0.6


def test_the_rate_rises_then_falls_or_stays():
    cosine = [rate_at(step, 400, Decay.COSINE) for step in range(400)]
    assert cosine[0] < 0.1
    assert max(cosine) > 0.99
    assert cosine[-1] < 1e-4
    assert rate_at(399, 400, Decay.FLAT) == 1.0


# Learning


def test_a_training_that_was_stopped_and_goes_on_gives_what_an_uncut_one_gives(trained, places, tmp_path):
    (*_, whole), _ = trained(places, save_every=4)
    other = Places(tmp_path / "other" / "ink.safetensors", tmp_path / "other")
    (*_, cut), said = trained(other, stop_after=3)
    assert (whole.is_done, cut.is_done, cut.step) == (True, False, 3)
    assert [m.step for m in said if isinstance(m, Wrote)] == [3]
    with pytest.raises(RequestInvalid, match="There is a training called 'ink' already"):
        trained(other)
    (*_, done), _ = trained(other, is_resumed=True)
    assert done.is_done
    for one, two in ((places.output, other.output), (places.state, other.state)):
        first, second = load_file(one), load_file(two)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("stage", ["Encoding words", "Encoding pictures"])
def test_a_stop_before_the_first_step_leaves_nothing(trained, places, stage):
    with pytest.raises(Cancelled):
        trained(places, stop_after=1, stage=stage)
    assert not places.state.exists()
    assert not places.output.exists()


def test_a_stop_in_the_middle_of_a_painting_saves_the_step_before_it(trained, places):
    (*_, ended), _ = trained(places, stop_after=2, samples=("a thing",), sample_every=2)
    assert ended.step == int(load_file(places.state)["step"]) == 2
    assert not places.sample(2, 1).exists()


def test_other_pictures_are_another_training(trained, places, folder):
    trained(places, stop_after=2)
    (folder / "p0.txt").write_text("something else")
    with pytest.raises(RequestInvalid, match="are not those that 'ink' began with"):
        trained(places, is_resumed=True)


@pytest.mark.parametrize("file", ["state", "request"])
def test_a_damaged_state_is_said(trained, places, file):
    trained(places, stop_after=1)
    getattr(places, file).write_bytes(b"{}")
    with pytest.raises(Corrupt, match=r"cannot be read|is damaged"):
        trained(places, is_resumed=True)


def test_a_taken_name_and_nothing_to_go_on_with_are_said(trained, places):
    with pytest.raises(RequestInvalid, match="no training called 'ink' that could go on"):
        trained(places, is_resumed=True)
    places.make()
    places.output.write_bytes(b"a LoRA from elsewhere")
    with pytest.raises(RequestInvalid, match="a LoRA called 'ink' already"):
        trained(places)
    assert places.output.read_bytes() == b"a LoRA from elsewhere"


def test_a_loss_that_is_no_number_ends_the_training_and_keeps_what_was_saved(trained, places):
    trained(places, stop_after=2)
    before = places.output.read_bytes()
    rewrite(places.state, lambda state: {name: value * np.float32(1e30) if "lora/" in name else value
                                         for name, value in state.items()})  # fmt: skip
    with pytest.raises(RequestInvalid, match="After step 3 the loss is no number any more"):
        trained(places, is_resumed=True, save_every=1)
    assert places.output.read_bytes() == before


def test_a_sample_is_what_the_engine_paints_with_the_file(trained, places, models, monkeypatch):
    # Where a LoRA hangs, GELU is no part of its product; so the last digit is the same without one.
    monkeypatch.setattr(processor, "GELU_IN_PRODUCTS", False)
    prompt = "a thing of the kind 1"
    trained(places, samples=(prompt,), sample_every=3, learning_rate=0.1, seed=5)
    first, _, last = (codec.decode(places.sample(step, 1).read_bytes())[..., :3] for step in (0, 3, 6))
    engine = TorchEngine("cpu", models)

    def painted(**fields):
        return run(engine, prompt=prompt, seed=5, num_steps=MICRO.num_steps, **fields)

    assert np.array_equal(painted().pixels, first)
    silent = painted(loras=[LoraUse(name="ink", strength=0)])
    assert silent.result.images[0].png == painted().result.images[0].png
    changed = painted(loras=[LoraUse(name="ink")]).pixels
    assert psnr_db(changed, last) > 45  # the file has half the digits
    assert psnr_db(changed, first) < 35


def learner(spec, folder, precision=Precision.FP32, is_checkpointed=False, size=(64, 64), rank=2):
    training = build_training(folder="/a", name="ink", rank=rank, learning_rate=0.01, num_steps=10)
    tokens, random = size[0] * size[1] // 256, torch.Generator().manual_seed(0)
    dtype = torch.float32 if precision is Precision.FP32 else torch.bfloat16
    told = Told(
        torch.randn(1, spec.t5_tokens, spec.transformer.context_in_dim, generator=random).to(dtype),
        torch.randn(1, spec.transformer.vec_in_dim, generator=random).to(dtype),
    )
    latents = torch.randn(1, tokens, 64, generator=random)
    base = dataclasses.replace(find_base("micro", (folder,)), spec=spec, folder=folder / spec.model)
    arguments = training.filled(spec, 1), base, TorchBackend("cpu"), precision
    return Learner(*arguments, [latents], [size], [told], is_checkpointed)


@pytest.fixture
def dev_like(models):
    write_models_dir(models[0], DEV_LIKE)
    return models[0]


def test_blocks_that_are_computed_again_give_the_same_gradients(dev_like):
    plain, again = (
        learner(DEV_LIKE, dev_like, is_checkpointed=is_so, size=(512, 448)) for is_so in (False, True)
    )
    losses = [(plain.learn(), again.learn()) for _ in range(3)]
    assert all(one == pytest.approx(two, rel=1e-6) for one, two in losses)
    ours, theirs = plain.lora.state(), again.lora.state()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)
    assert all(value.abs().sum() > 0 for value in ours.values())


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_a_base_stays_as_it_is_while_its_lora_learns_in_float32(dev_like, precision):
    found = learner(DEV_LIKE, dev_like, precision, is_checkpointed=True, size=(128, 128), rank=8)
    weights = {name: leaf.weight.clone() for name, leaf in leaves_of(found).items()}
    losses = []
    for _ in range(10):
        losses.append(found.learn())
        found.step = 0  # the same noise again, so that the loss must fall
    assert losses[-1] < losses[0]
    assert all(p.dtype is torch.float32 for p in found.lora.parameters.values())
    dtype = torch.float32 if precision is Precision.FP32 else torch.bfloat16
    assert all(leaf.weight.dtype is dtype for leaf in leaves_of(found).values())
    assert all(torch.equal(leaf.weight, weights[name]) for name, leaf in leaves_of(found).items())


def leaves_of(found):
    blocks = [found.transformer.img_in, found.transformer.final_layer.linear]
    return dict(enumerate(blocks))


@pytest.mark.parametrize("form", ["fp8", "nf4"])
@pytest.mark.parametrize("is_kept", [True, False])
def test_a_quantised_base_is_trained_on_as_it_lies_in_its_file(models, form, is_kept, monkeypatch):
    monkeypatch.setattr("backends.torch_cuda.backend.KEPT_DECODED_BYTES", 2**30 if is_kept else 0)
    wide = TransformerConfig(
        hidden_size=64, num_heads=2, depth=1, depth_single=1, mlp_hidden=128, context_in_dim=32,
        vec_in_dim=32, axes_dim=(8, 12, 12),
    )  # fmt: skip
    spec = dataclasses.replace(MICRO, model="wide", transformer=wide)
    write_models_dir(models[0], spec)
    file = models[0] / "wide" / spec.files.transformer
    quantize(open_source(file), FORMS[form], file.with_name("packed.safetensors"))
    packed = dataclasses.replace(
        spec, files=dataclasses.replace(spec.files, transformer="packed.safetensors")
    )
    found = learner(packed, models[0], is_checkpointed=not is_kept, rank=8)
    block = found.transformer.single_blocks[0]
    linear = (block if is_kept else block.args[0]).linear1  # one that is computed again lies in a partial
    assert isinstance(linear.weight, PackedWeight)
    before = linear.weight(torch.float32).clone()
    losses = []
    for _ in range(8):
        losses.append(found.learn())
        found.step = 0
    assert losses[-1] < losses[0]
    assert torch.equal(linear.weight(torch.float32), before)


def test_a_step_has_the_loss_and_the_gradients_that_diffusers_and_peft_have(tmp_path):
    from peft import LoraConfig, get_peft_model

    peer = lora_peers.flux_peer()
    lora_peers.saved(peer.state_dict(), tmp_path / lora_peers.SPEC.files.transformer)
    spec = lora_peers.SPEC
    training = build_training(folder="/a", name="ink", rank=2, learning_rate=1e-6, num_steps=9)
    random = torch.Generator().manual_seed(0)
    z = torch.randn(1, 20, 64, generator=random)
    txt = torch.randn(1, spec.t5_tokens, spec.transformer.context_in_dim, generator=random)
    vec = torch.randn(1, spec.transformer.vec_in_dim, generator=random)
    arguments = training.filled(spec, 1), Base(spec, tmp_path), TorchBackend("cpu"), Precision.FP32
    ours = Learner(*arguments, [z], [(64, 80)], [Told(txt, vec)], is_checkpointed=False)
    loss = ours.learn()

    recipes = transformer_recipes(spec.transformer)
    trained = [
        layer.name for layer in layers_of(spec)[Component.TRANSFORMER] if BLOCK_MATRIX.fullmatch(layer.name)
    ]
    parts = {
        name: [part.removesuffix(".weight") for part in recipes[f"{name}.weight"].parts] for name in trained
    }
    config = LoraConfig(r=2, lora_alpha=2, target_modules=[one for each in parts.values() for one in each])
    with lora_peers.quiet():
        peer = get_peft_model(peer, config).base_model.model
    modules = dict(peer.named_modules())
    for name in trained:
        down = ours.lora.parameters[f"lora_unet_{name.replace('.', '_')}.lora_down.weight"]
        for part in parts[name]:
            modules[part].lora_A["default"].weight.data.copy_(down)
    noise, sigma = (torch.from_numpy(each) for each in noise_of(0, 0, (1, 20, 64), False))
    ids = torch.from_numpy(position_ids(0, 8, 10)).float()
    v = peer(
        hidden_states=(1 - sigma) * z + sigma * noise,
        encoder_hidden_states=txt,
        pooled_projections=vec,
        timestep=sigma,
        img_ids=ids,
        txt_ids=torch.zeros(spec.t5_tokens, 3),
        guidance=torch.ones(1),
        return_dict=False,
    )[0]
    theirs = torch.nn.functional.mse_loss(v, noise - z)
    theirs.backward()
    assert loss == pytest.approx(float(theirs.detach()), rel=1e-5)
    norm = torch.cat([m.lora_B["default"].weight.grad.flatten() for m in modules.values()
                      if hasattr(m, "lora_B")]).norm()  # fmt: skip
    for name in trained:
        grad = ours.lora.parameters[f"lora_unet_{name.replace('.', '_')}.lora_up.weight"].grad
        expected = torch.cat([modules[part].lora_B["default"].weight.grad for part in parts[name]])
        assert torch.allclose(
            grad, expected / max(1.0, float(norm)), atol=1e-5 * float(expected.abs().max()) + 1e-7
        ), name


# The file


def test_the_file_is_kohya_s_and_every_tensor_of_it_is_read(trained, places):
    trained(places, trigger="ink")
    source = open_source(places.output)
    report = read_lora(source, MICRO, "ink").report
    assert (report.families, report.kinds, report.ranks) == (("sd-scripts (kohya)",), ("LoRA",), (2,))
    assert report.unmatched == ()
    trainable = [
        layer for layer in layers_of(MICRO)[Component.TRANSFORMER] if BLOCK_MATRIX.fullmatch(layer.name)
    ]
    assert report.layers == {Component.TRANSFORMER: len(trainable)} == {Component.TRANSFORMER: 10}
    assert source.metadata["modelspec.trigger_phrase"] == "ink"
    assert (source.metadata["ss_steps"], source.metadata["ss_network_dim"]) == ("6", "2")
    assert not any("pictures" in value for value in source.metadata.values())  # the folder's path


def test_a_file_of_flux_s_size_means_the_same_to_diffusers(tmp_path):
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    config = dataclasses.replace(catalog.DEV.transformer, depth=1, depth_single=1)
    leaves = TorchLeaves(device="meta")
    Transformer(TorchBackend("cpu").ops, leaves, config)
    lora = ArtistLora(leaves.modules, 2, torch.device("cpu"), seed=0)
    for number, parameter in enumerate(lora.parameters.values()):
        torch.nn.init.normal_(parameter, 0.0, 0.1, torch.Generator().manual_seed(number))
    file = tmp_path / "large.safetensors"
    lora.write(file, {})
    theirs = _convert_kohya_flux_lora_to_diffusers(load_file(file))
    spec = dataclasses.replace(catalog.DEV, transformer=config)
    patches = {patch.layer: patch.delta for patch in read_lora(open_source(file), spec, "large").patches()}

    def delta(module):
        down, up = (theirs[f"transformer.{module}.lora_{side}.weight"].float() for side in "AB")
        return (up[:64] @ down).numpy()

    double, single = "transformer_blocks.0", "single_transformer_blocks.0"
    for module, layer, row in (
        (f"{double}.attn.to_k", "double_blocks.0.img_attn.qkv", 3072),
        (f"{double}.attn.add_v_proj", "double_blocks.0.txt_attn.qkv", 6144),
        (f"{double}.ff_context.net.2", "double_blocks.0.txt_mlp.2", 0),
        (f"{single}.proj_mlp", "single_blocks.0.linear1", 9216),
        (f"{single}.proj_out", "single_blocks.0.linear2", 0),
    ):
        ours = patches[layer]
        expected = ours.scale * ours.up[row : row + 64] @ ours.down
        assert np.allclose(delta(module), expected, atol=1e-6), module


def test_the_first_values_change_nothing_and_depend_on_the_seed_alone():
    leaves = TorchLeaves()
    model = Transformer(TorchBackend("cpu").ops, leaves, MICRO.transformer)
    del model
    first = ArtistLora(leaves.modules, 4, torch.device("cpu"), seed=1)
    torch.randn(7)
    second = ArtistLora(leaves.modules, 4, torch.device("cpu"), seed=1)
    for name, value in first.state().items():
        assert torch.equal(value, second.state()[name])
        assert bool(value.abs().sum()) == name.endswith("lora_down.weight")


@pytest.mark.parametrize(
    ("dtype", "side_px", "most_gb"),
    [("BF16", 512, 26.0), ("BF16", 1024, 28.0), ("F8_E4M3", 512, 15.0), ("F8_E4M3", 1024, 17.0)],
)
def test_memory_at_flux_s_size_is_told_from_headers_alone(tmp_path, dtype, side_px, most_gb):
    names = published.bfl_transformer(catalog.DEV)
    sparse = {
        name: dataclasses.replace(info, dtype=dtype if len(info.shape) == 2 else "BF16")
        for name, info in names.items()
    }
    published.write_sparse(tmp_path / catalog.DEV.files.transformer, sparse)
    tokens = catalog.DEV.t5_tokens + (side_px // 16) ** 2
    memory = memory_of(Base(catalog.DEV, tmp_path), 16, tokens, 2, is_checkpointed=True)
    assert memory.weights == pytest.approx({"BF16": 23.8e9, "F8_E4M3": 11.9e9}[dtype], rel=0.01)
    assert memory.trained == 56_033_280 * 16
    assert most_gb - 1.0 < memory.total / 1e9 < most_gb
