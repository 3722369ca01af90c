"""Products in eight-bit floats: their codes, which layers have them, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from backends.torch_cuda.backend import TorchBackend, best_ops
from backends.torch_cuda.codes import coded
from backends.torch_cuda.eight_bit import (
    EightBitLinear,
    EightBitWeight,
    block_matrices_in_eight_bits,
    computes_in_eight_bits,
)
from backends.torch_cuda.leaves import Linear
from backends.torch_cuda.ops import TorchOps
from backends.torch_cuda.packed import PackedWeight
from backends.torch_cuda.processor import ProcessorOps
from flux_core import machine
from flux_core.lora_training import LoraTraining
from flux_core.models.transformer import Transformer
from flux_core.pipeline import FluxEngine
from flux_core.request import Precision
from flux_core.weights.expected import Recorder
from flux_core.weights.quant.encode import encode_fp8
from tests.flux_core.ops.test_three_implementations import TRANSFORMER
from tests.support.engine_runs import psnr_db, run
from tests.support.numerics import ArraySource, random_weights

MODELS = Path(__file__).parents[3] / "resources" / "models"
ON_A_GPU = pytest.mark.skipif(
    not computes_in_eight_bits(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
    reason="NOT TESTED HERE: needs a GPU that multiplies eight-bit floats (sm89 or later)",
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def leaf(out_dim: int = 48, in_dim: int = 64) -> EightBitLinear:
    bias = nn.Parameter(draw(out_dim), requires_grad=False)
    return EightBitLinear(EightBitWeight.made_of(draw(out_dim, in_dim, seed=1)), bias)


def test_a_rows_largest_value_is_kept_and_others_are_near() -> None:
    x = draw(7, 64) * torch.tensor([1e-4, 1, 3, 1e4, 1, 1, 1])[:, None]
    codes, scales = coded(x)
    back = codes.float() * scales
    assert torch.allclose(back.abs().amax(1), x.abs().amax(1), rtol=1e-6)
    assert ((back - x).abs() <= torch.maximum(x.abs() / 16, 2.0**-10 * scales)).all()


def test_a_row_of_zeros_gives_the_bias() -> None:
    linear = leaf()
    assert torch.equal(linear(torch.zeros(1, 2, 64))[0, 1], linear.bias)


def test_the_product_is_near_that_of_the_numbers() -> None:
    x, weight = draw(2, 5, 64), draw(48, 64, seed=1)
    wanted = nn.functional.linear(x, weight)
    found = EightBitLinear(EightBitWeight.made_of(weight), None)(x)
    assert (found - wanted).norm() / wanted.norm() < 0.045


@pytest.mark.parametrize("scheme", ["F8_E4M3", "F8_E4M3_SCALED"])
def test_codes_of_a_file_are_used_as_they_are(scheme: str) -> None:
    codes, companions = encode_fp8(draw(32, 16).numpy())
    on_device = {key: torch.from_numpy(np.array(value)) for key, value in companions.items()}
    packed = PackedWeight(
        scheme, (32, 16), torch.from_numpy(codes), on_device if scheme == "F8_E4M3_SCALED" else {}
    )
    made = EightBitWeight.made_of(packed)
    assert made.get_buffer("codes") is packed.get_buffer("codes")
    assert torch.equal(made(torch.float32), packed(torch.float32))


def test_a_weight_packed_otherwise_is_decoded_and_coded_once() -> None:
    values = torch.tensor([[1.5, -1.75] * 8] * 16)  # which e5m2 and e4m3 both have
    packed = PackedWeight("F8_E5M2", (16, 16), values.to(torch.float8_e5m2).view(torch.uint8), {})
    assert torch.allclose(EightBitWeight.made_of(packed)(torch.float32), packed(torch.float32), rtol=1e-6)


def test_only_matrices_of_blocks_are_in_eight_bits_and_only_where_their_sides_fit() -> None:
    make = block_matrices_in_eight_bits()
    weight = nn.Parameter(draw(32, 16), requires_grad=False)
    recorder = Recorder()
    Transformer(TorchOps(), recorder, TRANSFORMER)
    names = [name.removesuffix(".weight") for name, shape in recorder.shapes.items() if len(shape) == 2]
    eight = {name for name in names if isinstance(make(name, weight, None), EightBitLinear)}
    kept = {"img_in", "txt_in", "time_in.in_layer", "final_layer.linear", "final_layer.adaLN_modulation.1"}
    kept |= {"double_blocks.0.img_mod.lin", "single_blocks.0.modulation.lin"}
    assert kept <= set(names) - eight
    assert {"double_blocks.1.txt_mlp.2", "single_blocks.0.linear1", "double_blocks.0.img_attn.proj"} <= eight
    odd = nn.Parameter(draw(24, 16), requires_grad=False)
    assert type(make("single_blocks.0.linear1", odd, None)) is Linear


def test_a_processor_has_its_own_operations_and_plain_layers() -> None:
    backend = TorchBackend("cpu")
    assert type(best_ops(backend.device)) is ProcessorOps
    assert not backend.has_fp8
    recorder = Recorder()
    Transformer(backend.ops, recorder, TRANSFORMER)
    leaves = backend.leaves(ArraySource(random_weights(recorder.shapes)), Precision.FP8)
    Transformer(backend.ops, leaves, TRANSFORMER)
    assert not any(isinstance(each, EightBitLinear) for each in leaves.modules.values())


def engine(has_fp8: bool) -> FluxEngine:
    backend = TorchBackend("cpu")
    backend.has_fp8 = backend.has_fp8_attention = has_fp8
    return FluxEngine(
        name="torch", backend=backend, models_dirs=(MODELS,), list_devices=lambda: (machine.processor(),),
        auto_precision=Precision.FP32, memory_budget_bytes=2**30, has_fp8=has_fp8,
    )  # fmt: skip


PAINTING: dict[str, Any] = {
    "model": "tiny", "prompt": "a red apple on a blue background", "num_steps": 4, "seed": 7,
    "width_px": 128, "height_px": 128,
}  # fmt: skip


def test_a_picture_in_eight_bits_is_nearly_the_exact_one() -> None:
    exact = run(engine(has_fp8=False), **PAINTING, precision=Precision.FP32)
    found = run(engine(has_fp8=True), **PAINTING, precision=Precision.FP8)
    assert not found.result.warnings
    assert not np.array_equal(found.pixels, exact.pixels)
    assert psnr_db(found.pixels, exact.pixels) > 25


def test_where_eight_bits_are_not_multiplied_the_picture_is_exact_and_the_person_is_told() -> None:
    exact = run(engine(has_fp8=False), **PAINTING, precision=Precision.FP32)
    found = run(engine(has_fp8=False), **PAINTING, precision=Precision.FP8)
    assert np.array_equal(found.pixels, exact.pixels)
    assert any("eight-bit" in warning for warning in found.result.warnings)


@ON_A_GPU
def test_the_gpus_product_is_that_of_the_codes() -> None:
    x, linear = draw(1, 37, 64).bfloat16(), leaf()
    linear = EightBitLinear(
        linear.weight.cuda(), nn.Parameter(linear.bias.bfloat16().cuda(), requires_grad=False)
    )
    with torch.inference_mode():
        found = linear(x.cuda()).float().cpu()
        wanted = linear.cpu()(x).float()
    assert (found - wanted).norm() / wanted.norm() < 1e-2  # fast sums, and a bfloat16 result


def test_a_lora_is_not_trained_in_eight_bits() -> None:
    with pytest.raises(ValidationError, match="not in fp8"):
        LoraTraining(folder="pictures", name="apples", precision=Precision.FP8)
