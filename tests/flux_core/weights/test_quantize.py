"""A quantised copy reads back as the very codes that were written, and says what they cost."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from flux_core.catalog import DEV
from flux_core.errors import Corrupt, RequestInvalid, StorageFull
from flux_core.models.transformer import Transformer
from flux_core.weights.expected import expected_shapes
from flux_core.weights.open import open_source
from flux_core.weights.quant import encode
from flux_core.weights.quant.forms import FORMS
from flux_core.weights.quant.schemes import SCHEMES, decode
from flux_core.weights.quantize import KEPT, METADATA, is_quantised_by, quantize
from flux_core.weights.tensors import TensorInfo, TensorSource
from tests.support.numerics import BACKENDS, ArraySource, distance, make_backend
from tests.support.oracle import OracleBackend
from tests.support.small_parts import MODELS, make_part

KEPT_MODULES = ("img_in", "txt_in", "time_in", "vector_in", "guidance_in", "final_layer")


def written(path: Path, part_name: str = "transformer") -> TensorSource:
    save_file(make_part(part_name).weights, path / "source.safetensors")
    return open_source(path / "source.safetensors")


def test_fp8_codes_are_torchs_for_every_float16_there_is() -> None:
    values = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    values = values[np.isfinite(values)]
    peer = torch.from_numpy(np.clip(values, -448, 448)).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    assert np.array_equal(encode.to_e4m3(values), peer)


def test_nf4_codes_are_bitsandbytes() -> None:
    from bitsandbytes.functional import quantize_4bit

    values = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    values[3] = 0.0
    codes, companions = encode.encode_nf4(values)
    peer, state = quantize_4bit(torch.from_numpy(values), quant_type="nf4")
    assert np.array_equal(companions["absmax"].reshape(-1), state.absmax.numpy())
    assert np.array_equal(codes.reshape(-1), peer.numpy().reshape(-1))


@pytest.mark.parametrize("width", [4, 8])
def test_mlx_codes_are_no_further_from_the_weights_than_mlx_own(width: int) -> None:
    values = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    peer = mx.quantize(mx.array(values).astype(mx.bfloat16), group_size=64, bits=width)
    exact = [peer[0], *(x.astype(mx.float32) for x in peer[1:])]
    theirs = np.array(mx.dequantize(*exact, group_size=64, bits=width))
    ours = decode(f"MLX{width}_G64", *encode.encode_mlx(width, values))
    assert np.square(ours - values).mean() <= np.square(theirs - values).mean()


@pytest.mark.parametrize("scheme", encode.ENCODERS)
def test_a_matrix_of_zeros_stays_one(scheme: str) -> None:
    codes, companions = encode.ENCODERS[scheme](np.zeros((2, 128), np.float32))
    assert not decode(scheme, codes, companions).any()


@pytest.mark.parametrize("word", FORMS)
def test_a_copy_reads_back_bit_equal_and_computes_what_it_says(word: str, tmp_path: Path) -> None:
    source, form = written(tmp_path), FORMS[word]
    report = quantize(source, form, tmp_path / "copy.safetensors")
    copy = open_source(tmp_path / "copy.safetensors")
    assert json.loads(copy.metadata[METADATA])["scheme"] == form.scheme
    assert (tmp_path / "copy.safetensors").stat().st_size == report.bytes_written
    assert {name: info.shape for name, info in copy.names().items()} == {
        name: info.shape for name, info in source.names().items()
    }
    for layer in report.layers:
        values = source.read(layer.name).to_numpy()
        raw = copy.read(layer.name)
        codes, companions = encode.ENCODERS[form.scheme](values)
        assert raw.dtype == form.scheme
        assert np.array_equal(raw.data.reshape(codes.shape), codes)
        assert all(np.array_equal(raw.companions[key], companions[key]) for key in companions)
        difference = raw.to_numpy() - values
        assert layer.largest == np.abs(difference).max()
        assert layer.relative_rms == pytest.approx(difference.std() / values.std(), rel=1e-2)
    for name in report.kept:
        assert np.array_equal(copy.read(name).data, source.read(name).data)

    model = MODELS["transformer"]
    values = ArraySource({name: copy.read(name).to_numpy() for name in copy.names()})
    expected = model.run(OracleBackend(), values)
    for name in BACKENDS:
        assert distance(model.run(make_backend(name), copy), expected) < 1e-5


def test_the_ends_of_the_transformer_norms_and_biases_stay_as_they_are(tmp_path: Path) -> None:
    report = quantize(written(tmp_path), FORMS["fp8"], tmp_path / "copy.safetensors")
    names = {layer.name for layer in report.layers}
    assert {"double_blocks.0.img_mod.lin.weight", "single_blocks.0.linear2.weight"} <= names
    assert not any(name.startswith(KEPT_MODULES) or name.endswith((".bias", ".scale")) for name in names)


def test_names_of_a_diffusers_folder_keep_its_ends_too() -> None:
    kept = (
        "x_embedder",
        "context_embedder",
        "proj_out",
        "norm_out.linear",
        "time_text_embed.text_embedder.linear_1",
    )
    coded = (
        "single_transformer_blocks.0.proj_out",
        "transformer_blocks.0.attn.to_out.0",
        "encoder.block.0.layer.0.SelfAttention.o",
    )
    assert all(KEPT.search(f"{name}.weight") for name in kept)
    assert not any(KEPT.search(f"{name}.weight") for name in coded)


@pytest.mark.parametrize(
    ("word", "gigabytes"), [("fp8", 11.99), ("nf4", 6.79), ("mlx4", 6.79), ("mlx8", 12.71)]
)
def test_of_flux_dev_all_matrices_of_the_blocks_are_coded(word: str, gigabytes: float) -> None:
    form = FORMS[word]
    shapes = expected_shapes(lambda ops, make: Transformer(ops, make, DEV.transformer))
    infos = {name: TensorInfo("BF16", shape) for name, shape in shapes.items()}
    coded = [name for name, info in infos.items() if is_quantised_by(form.scheme, name, info)]
    assert len(coded) == 19 * 10 + 38 * 3
    size = sum(p.num_bytes for name in coded for p in form.plan(name, (shapes[name][0], shapes[name][1])))
    size += sum(2 * int(np.prod(shape)) for name, shape in shapes.items() if name not in coded)
    assert size / 1e9 == pytest.approx(gigabytes, abs=0.01)


def test_a_quantised_file_may_be_quantised_again(tmp_path: Path) -> None:
    quantize(written(tmp_path), FORMS["fp8"], tmp_path / "eight.safetensors")
    eight = open_source(tmp_path / "eight.safetensors")
    report = quantize(eight, FORMS["nf4"], tmp_path / "four.safetensors")
    four = open_source(tmp_path / "four.safetensors")
    name = report.layers[0].name
    codes, _ = encode.encode_nf4(eight.read(name).to_numpy())
    assert np.array_equal(four.read(name).data, codes.reshape(-1))


def test_memory_stays_far_below_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shape = (1024, 1024)
    save_file(
        {f"double_blocks.{i}.img_mlp.0.weight": rng.standard_normal(shape, np.float32) for i in range(16)},
        tmp_path / "source.safetensors",
    )
    source = open_source(tmp_path / "source.safetensors")
    for form in FORMS.values():
        tracemalloc.start()
        quantize(source, form, tmp_path / "copy.safetensors")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # The file has 64 MB, one matrix 4; two are in work at once, each with its codes.
        assert peak < 12 * 2**20, (form.title, peak)


def test_values_that_are_no_numbers_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    weight = np.ones((4, 64), np.float32)
    weight[2, 5] = np.nan
    save_file({"double_blocks.0.img_mlp.0.weight": weight}, tmp_path / "source.safetensors")
    with pytest.raises(Corrupt, match=r"img_mlp\.0\.weight.*not finite"):
        quantize(open_source(tmp_path / "source.safetensors"), FORMS["fp8"], tmp_path / "copy.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["source.safetensors"]


def test_a_file_without_matrices_is_refused(tmp_path: Path) -> None:
    save_file({"img_in.weight": np.ones((64, 64), np.float32)}, tmp_path / "source.safetensors")
    with pytest.raises(RequestInvalid, match="no matrix"):
        quantize(open_source(tmp_path / "source.safetensors"), FORMS["nf4"], tmp_path / "copy.safetensors")


def test_a_full_disk_leaves_the_old_copy(tmp_path: Path) -> None:
    import resource

    source = written(tmp_path)
    (tmp_path / "copy.safetensors").write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StorageFull):
            quantize(source, FORMS["fp8"], tmp_path / "copy.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "copy.safetensors").read_bytes() == b"old"


def test_bitsandbytes_reads_our_nf4(tmp_path: Path) -> None:
    from bitsandbytes.functional import QuantState, dequantize_4bit
    from safetensors.torch import load_file

    report = quantize(written(tmp_path), FORMS["nf4"], tmp_path / "copy.safetensors")
    tensors = load_file(tmp_path / "copy.safetensors")
    name = report.layers[0].name
    parts = {key: value for key, value in tensors.items() if key.startswith(f"{name}.")}
    state = QuantState.from_dict(parts, torch.device("cpu"))
    peer = dequantize_4bit(tensors[name], state).float().numpy()
    ours = open_source(tmp_path / "copy.safetensors").read(name).to_numpy()
    assert np.array_equal(torch.from_numpy(ours).bfloat16().float().numpy(), peer)


def test_every_scheme_that_is_written_is_one_that_is_read() -> None:
    assert {form.scheme for form in FORMS.values()} == set(encode.ENCODERS) <= set(SCHEMES)


def test_nf4_of_values_too_small_for_an_inverse_is_nothing_and_no_warning() -> None:
    values = np.zeros((1, 128), np.float32)
    values[0, 3], values[0, 70] = 1e-40, 2.0
    codes, companions = encode.encode_nf4(values)
    again = decode("NF4", codes.reshape(1, -1), companions)
    assert np.abs(again[0, :64]).max() < 1e-38
    assert again[0, 70] == 2.0
