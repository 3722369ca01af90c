"""Quantised files that are broken, odd or of a kind that is not read are refused in one sentence."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flux_core.errors import Corrupt, FluxError
from flux_core.weights.formats.refused import MARKS
from flux_core.weights.formats.registry import FORMATS, formats_of
from flux_core.weights.open import open_source
from flux_core.weights.safetensors_file import SafetensorsFile
from tests.support.quantised_files import WRITERS, Part

FUZZ_CASES = int(os.environ.get("FLOWBRUSH_FUZZ_CASES", "200"))
"""How many damaged files are tried over all formats."""
Tensors = dict[str, torch.Tensor]
ROWS, COLUMNS = 8, 128
FP8 = torch.zeros(ROWS, COLUMNS, dtype=torch.float8_e4m3fn)
ONE = torch.ones(())


def note(**values: object) -> torch.Tensor:
    return torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)


def small_part() -> Part:
    weight = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    return Part("layer", {"layer.weight": weight, "layer.bias": weight[:, 0].copy()}, "")


def written(tmp_path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    save_file(tensors, tmp_path / "file.safetensors", metadata)
    return tmp_path / "file.safetensors"


@pytest.mark.parametrize(
    "kind",
    ["mxfp8", "int8_tensorwise", "svdquant_w4a4", "awq_w4a16", "convrot_w4a4", "a format of tomorrow"],
)
@pytest.mark.parametrize("is_in_header", [False, True])
def test_a_comfy_format_that_is_not_read_is_refused_by_name(
    kind: str, is_in_header: bool, tmp_path: Path
) -> None:
    codes = {"a.layer.weight": torch.zeros(ROWS, COLUMNS, dtype=torch.int8), "a.layer.weight_scale": ONE}
    if is_in_header:
        listed = json.dumps({"layers": {"a.layer": {"format": kind}}})
        path = written(tmp_path, codes, {"_quantization_metadata": listed})
    else:
        path = written(tmp_path, codes | {"a.layer.comfy_quant": note(format=kind)})
    with pytest.raises(Corrupt, match=f"'a.layer' is stored in ComfyUI's format '{kind}'"):
        open_source(path)


def test_rotated_weights_are_refused_in_a_format_that_is_read_otherwise(tmp_path: Path) -> None:
    path = written(tmp_path, {"a.weight": FP8, "a.comfy_quant": note(format="float8_e4m3fn", convrot=True)})
    with pytest.raises(Corrupt, match="'float8_e4m3fn with convrot'"):
        open_source(path)


@pytest.mark.parametrize("kind", MARKS)
def test_a_form_that_is_not_read_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    codes, scales = (f"transformer_blocks.0.attn.to_q{ending}" for ending in MARKS[kind])
    path = written(tmp_path, {codes: torch.zeros(ROWS, COLUMNS, dtype=torch.int8), scales: torch.ones(ROWS)})
    with pytest.raises(Corrupt, match=f"stored as {kind}"):
        open_source(path)


def test_a_file_of_nunchaku_is_told_by_its_header_alone(tmp_path: Path) -> None:
    path = written(tmp_path, {"x": ONE}, {"model_class": "NunchakuFluxTransformer2dModel"})
    with pytest.raises(Corrupt, match="SVDQuant"):
        open_source(path)


MISFITS: dict[str, tuple[Tensors, str]] = {
    "a scale without its weight": ({"a.scale_weight": ONE}, "'a.weight' is not there"),
    "a scale of a weight that is not fp8": (
        {"a.weight": torch.zeros(ROWS, COLUMNS), "a.scale_weight": ONE},
        "'a.weight' is F32",
    ),
    "more scales than rows": ({"a.weight": FP8, "a.scale_weight": torch.ones(3)}, "3 numbers"),
    "a scale of whole numbers": (
        {"a.weight": FP8, "a.scale_weight": torch.ones((), dtype=torch.int64)},
        "(I64) for 8 rows",
    ),
    "a note that is not JSON": (
        {"a.weight": FP8, "a.comfy_quant": torch.full((5,), 123, dtype=torch.uint8)},
        "not a JSON object",
    ),
    "a note without a format": ({"a.weight": FP8, "a.comfy_quant": note(other=1)}, "does not say"),
    "a note of floats": ({"a.weight": FP8, "a.comfy_quant": torch.ones(5)}, "short note in bytes"),
    "a note beside no weight": ({"a.comfy_quant": note(format="float8_e4m3fn")}, "which it is not"),
    "nvfp4 without its scales": (
        {"a.weight": torch.zeros(ROWS, 32, dtype=torch.uint8), "a.comfy_quant": note(format="nvfp4")},
        "lacks its codes or one of its scales",
    ),
    "nvfp4 with too few scales": (
        {
            "a.weight": torch.zeros(ROWS, 32, dtype=torch.uint8),
            "a.weight_scale": torch.zeros(ROWS, 4, dtype=torch.float8_e4m3fn),
            "a.weight_scale_2": ONE,
        },
        r"should be [128, 4]",
    ),
    "MLX scales of another length": (
        {
            "a.weight": torch.zeros(ROWS, 16, dtype=torch.uint32),
            "a.scales": torch.ones(ROWS + 1, 2),
            "a.biases": torch.ones(ROWS + 1, 2),
        },
        "do not fit together",
    ),
    "MLX codes of a width that there is not": (
        {
            "a.weight": torch.zeros(ROWS, 14, dtype=torch.uint32),
            "a.scales": torch.ones(ROWS, 1),
            "a.biases": torch.ones(ROWS, 1),
        },
        "448 bits in a group",
    ),
}


@pytest.mark.parametrize("what", MISFITS)
def test_tensors_that_do_not_fit_together_are_refused(what: str, tmp_path: Path) -> None:
    tensors, message = MISFITS[what]
    with pytest.raises(Corrupt) as caught:
        open_source(written(tmp_path, tensors))
    assert message in caught.value.message
    assert caught.value.hint


def test_a_table_of_values_of_ones_own_is_refused(tmp_path: Path) -> None:
    WRITERS["bitsandbytes NF4"](small_part(), tmp_path / "file.safetensors")
    tensors = load_file(tmp_path / "file.safetensors")
    tensors["layer.weight.quant_map"] = torch.linspace(-1, 1, 16)
    with pytest.raises(Corrupt, match="table of values of its own"):
        open_source(written(tmp_path, tensors))


@pytest.mark.parametrize("missing", ["absmax", "nested_absmax", "nested_quant_map"])
def test_a_four_bit_weight_without_one_of_its_parts_is_refused(missing: str, tmp_path: Path) -> None:
    WRITERS["bitsandbytes NF4, nested"](small_part(), tmp_path / "file.safetensors")
    tensors = load_file(tmp_path / "file.safetensors")
    del tensors[f"layer.weight.{missing}"]
    with pytest.raises(Corrupt, match=f"layer.weight.{missing}.*is not there"):
        open_source(written(tmp_path, tensors))


@pytest.mark.parametrize("block", [64, 2**39])
def test_a_block_that_crosses_rows_is_decoded_and_costs_no_more(block: int, tmp_path: Path) -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    codes, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")
    peer = dequantize_4bit(codes, state).numpy()
    absmax = state.absmax if block == 64 else state.absmax[:1]
    path = written(
        tmp_path,
        {
            "layer.weight": codes,
            "layer.weight.absmax": absmax.clone(),
            "layer.weight.quant_state.bitsandbytes__nf4": note(
                quant_type="nf4", blocksize=block, shape=[6, 40]
            ),
        },
    )
    values = open_source(path).read("layer.weight").to_numpy()
    assert values.shape == (6, 40)
    if block == 64:
        assert np.array_equal(values, peer)


def test_the_width_of_mlx_codes_is_taken_from_the_header_where_shapes_leave_two(tmp_path: Path) -> None:
    import mlx.core as mx

    weight = mx.random.normal((ROWS, COLUMNS), key=mx.random.key(0))
    triplet = mx.quantize(weight, group_size=32, bits=8)
    names = ("layer.weight", "layer.scales", "layer.biases")
    for metadata, scheme in (({}, "MLX4_G64"), ({"quantization_level": "8"}, "MLX8_G32")):
        path = str(tmp_path / "file.safetensors")
        mx.save_safetensors(path, dict(zip(names, triplet, strict=True)), metadata)
        assert open_source(tmp_path / "file.safetensors").names()["layer.weight"].dtype == scheme
    found = open_source(tmp_path / "file.safetensors").read("layer.weight").to_numpy()
    assert np.allclose(found, np.array(mx.dequantize(*triplet, group_size=32, bits=8)), atol=1e-6)


def test_a_file_says_which_formats_it_is_in(tmp_path: Path) -> None:
    for format_name, expected in (
        ("ComfyUI nvfp4", ["ComfyUI comfy_quant"]),
        ("bitsandbytes NF4", ["bitsandbytes 4-bit"]),
        ("mflux 4 bits", ["MLX affine", "mflux"]),
        ("fp8 e4m3", []),
    ):
        WRITERS[format_name](small_part(), tmp_path / "file.safetensors")
        assert formats_of(SafetensorsFile(tmp_path / "file.safetensors")) == expected
        assert set(expected) <= set(FORMATS)


@pytest.mark.parametrize("format_name", WRITERS)
def test_a_damaged_file_is_read_or_refused_and_never_worse(format_name: str, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    WRITERS[format_name](small_part(), path)
    sound = path.read_bytes()
    header_end = 8 + int.from_bytes(sound[:8], "little")
    rng = np.random.default_rng(0)
    for case in range(FUZZ_CASES // len(WRITERS)):
        damaged = bytearray(sound)
        start, stop = (8, header_end) if case % 2 else (header_end, len(sound))
        for at in rng.integers(start, stop, rng.integers(1, 6)):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(FluxError), np.errstate(all="ignore"):
            source = open_source(path)
            for name in source.names():
                source.read(name).to_numpy()
