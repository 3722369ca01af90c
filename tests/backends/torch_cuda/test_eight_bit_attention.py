"""Attention in eight bits: its error, its kernels on a GPU or in Triton's interpreter, and who has it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backends.torch_cuda.backend import TorchBackend, attends_in_eight_bits
from backends.torch_cuda.eight_bit_attention import BLOCK, attended, takes_codes
from backends.torch_cuda.leaves import RMSNorm
from backends.torch_cuda.ops import TorchOps
from flux_core.conditioning.packing import position_ids, rotary_table
from flux_core.ops import HeadStream
from flux_core.request import Precision
from tests.support.fused import DEVICE, HAS_GPU, Draw, mend_interpreter, triton_only
from tests.support.numerics import ArraySource

HEADS, DIM = 2, 128
PLAIN = TorchOps()
ON_HOPPER = pytest.mark.skipif(
    not attends_in_eight_bits(DEVICE),
    reason="NOT TESTED HERE: the kernel was written for GPUs of compute capability 9.0",
)
ATTENDS = not HAS_GPU or attends_in_eight_bits(DEVICE)
LENGTHS = [(1,), (BLOCK,), (5, 150), (BLOCK, 3)]


def streams(draw: Draw, lengths: tuple[int, ...], batch: int = 1, gain: float = 1.0) -> list[HeadStream]:
    """Projections with a part that all keys share, and norms that weigh some numbers more than others."""

    def norm() -> RMSNorm:
        weight = nn.Parameter(gain * (1 + 0.3 * draw(DIM)), requires_grad=False)
        return RMSNorm(weight, 1e-6, "scale", feeds_codes=True)

    found: list[HeadStream] = []
    for length in lengths:
        qkv = draw(batch, length + 2, 3 * HEADS * DIM + 16)[:, 1:-1, 8:-8]
        qkv[..., HEADS * DIM : 2 * HEADS * DIM] += 0.5 * draw(1, 1, HEADS * DIM)
        found.append(HeadStream(qkv, norm(), norm()))
    return found


def rotation(length: int) -> Tensor:
    ids = position_ids(0, 2, 2 * length)
    return torch.from_numpy(rotary_table(ids, (32, 32, 64), 10_000.0)).to(DEVICE)


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = q.double(), k.double(), v.double()
    return PLAIN.attention(q, k, v, scale=DIM**-0.5)


def error(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize(("gain", "most"), [(1.0, 0.045), (2.0, 0.06)])
def test_the_error_is_that_of_the_codes(lengths: tuple[int, ...], gain: float, most: float) -> None:
    with torch.inference_mode():
        given = streams(Draw(torch.float32), lengths, gain=gain)
        heads = PLAIN.joint_heads(given, HEADS, rotation(sum(lengths)))
        assert error(attended(*heads, DIM**-0.5), exact(*heads)) < most


def test_one_key_gives_its_value_as_coded() -> None:
    draw = Draw(torch.float32)
    q, k, v = draw(1, HEADS, 3, DIM), draw(1, HEADS, 1, DIM), draw(1, HEADS, 1, DIM)
    found = attended(q, k, v, 1.0)
    wanted = v.expand(1, HEADS, 3, DIM).transpose(1, 2).flatten(2)
    assert ((found - wanted).abs() <= wanted.abs() / 16 + 1e-3).all()


def test_numbers_of_any_size_are_coded() -> None:
    draw = Draw(torch.float32)
    q, k, v = (draw(1, HEADS, 2 * BLOCK, DIM) for _ in range(3))
    wanted = attended(q, k, v, DIM**-0.5)
    sizes = torch.tensor([2.0**-13, 2.0**13], device=DEVICE)[:, None, None]  # of each head's numbers
    found = attended(q * sizes, k / sizes, v * sizes, DIM**-0.5).unflatten(2, (HEADS, DIM))
    assert torch.equal(found / sizes.transpose(0, 1), wanted.unflatten(2, (HEADS, DIM)))
    assert torch.equal(attended(0 * q, 0 * k, 0 * v, 1.0), torch.zeros_like(wanted))


def test_a_bias_and_norms_that_do_not_say_so_keep_attention_as_it_is() -> None:
    draw = Draw(torch.float32)
    given, pe = streams(draw, (3, 6)), rotation(9)
    bias = draw(1, 1, 9, 9)
    with torch.inference_mode():
        heads = PLAIN.joint_heads(given, HEADS, pe)
        found = PLAIN.joint_attention(given, HEADS, pe, scale=1.0, bias=bias)
        assert torch.equal(found, PLAIN.attention(*heads, scale=1.0, bias=bias))
        given[1].k_norm.feeds_codes = False
        assert not takes_codes(given)
        found = PLAIN.joint_attention(given, HEADS, pe, scale=1.0)
        assert torch.equal(found, PLAIN.attention(*heads, scale=1.0))


def test_heads_are_coded_in_eight_bits_only_where_the_device_attends_so() -> None:
    backend = TorchBackend("cpu")
    leaves = {precision: norm_of(backend, precision) for precision in (Precision.FP8, Precision.FP32)}
    assert not any(norm.feeds_codes for norm in leaves.values())
    backend.has_fp8_attention = True
    assert norm_of(backend, Precision.FP8).feeds_codes
    assert not norm_of(backend, Precision.FP32).feeds_codes


def norm_of(backend: TorchBackend, precision: Precision) -> RMSNorm:
    source = ArraySource({"norm.scale": np.ones(DIM, np.float32)})
    norm = backend.leaves(source, precision).rms_norm("norm", DIM, 1e-6, key="scale")
    assert isinstance(norm, RMSNorm)
    return norm


@triton_only
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_the_heads_of_one_pass_are_those_of_many(
    monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...]
) -> None:
    from backends.torch_cuda.kernels.coded_heads import coded_heads, key_order
    from backends.torch_cuda.kernels.heads import Projected

    mend_interpreter(monkeypatch)
    with torch.inference_mode():
        given, pe = streams(Draw(torch.float32), lengths, batch=2), rotation(sum(lengths))
        q, k, v = PLAIN.joint_heads(given, HEADS, pe)
        projected = [Projected(each.qkv, each.q_norm.gain, each.k_norm.gain, 1e-6) for each in given]
        coded = coded_heads(projected, HEADS, pe, DIM**-0.5)
    heads, length, padded = 2 * HEADS, sum(lengths), coded.q_scales.shape[1]
    assert padded % BLOCK == 0
    assert coded.length == length
    base2 = DIM**-0.5 / math.log(2)
    found_q = coded.q.view(heads, padded, DIM) * coded.q_scales[:, :, None] / base2
    blocks = coded.k.view(heads, -1, BLOCK, DIM) * coded.k_scales[:, :, None, None]
    found_k = blocks.view(heads, padded, DIM)
    found_v = torch.empty_like(found_k)
    spread = coded.v_scales.repeat_interleave(BLOCK, 1)[:, :, None]
    found_v[:, key_order(padded)] = coded.v.float().view(heads, DIM, padded).transpose(1, 2)
    for found, wanted, most in ((found_q, q, 0.008), (found_k, k, 0.014), (found_v * spread, v, 0.028)):
        assert error(found[:, :length], wanted.flatten(0, 1)) < most
        assert not found[:, length:].any()


@triton_only
@pytest.mark.parametrize("lengths", [(1,), (5, 150)], ids=str)
def test_the_kernel_is_as_near_as_its_codes(
    monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...]
) -> None:
    from backends.torch_cuda.kernels.coded_attention import coded_attention
    from backends.torch_cuda.kernels.coded_heads import coded_heads
    from backends.torch_cuda.kernels.heads import Projected

    if not ATTENDS:
        pytest.skip("NOT TESTED HERE: the kernel was written for GPUs of compute capability 9.0")
    mend_interpreter(monkeypatch)
    with torch.inference_mode():
        given, pe = streams(Draw(torch.bfloat16), lengths, gain=1.5), rotation(sum(lengths))
        projected = [Projected(each.qkv, each.q_norm.gain, each.k_norm.gain, 1e-6) for each in given]
        found = coded_attention(coded_heads(projected, HEADS, pe, DIM**-0.5))
        wide = [each._replace(qkv=each.qkv.float()) for each in given]
        heads = PLAIN.joint_heads(wide, HEADS, pe)
        wanted, emulated = exact(*heads), attended(*heads, DIM**-0.5)
    assert found.dtype is torch.bfloat16
    assert error(found, wanted) < error(emulated, wanted) + 0.004
    assert error(found, emulated) < 0.012


@ON_HOPPER
@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_long_attention_on_a_gpu_is_as_near_as_its_codes(gain: float) -> None:
    from backends.torch_cuda.fused import FusedOps

    lengths = (77, 4100)
    with torch.inference_mode():
        given, pe = streams(Draw(torch.bfloat16), lengths, 1, gain), rotation(sum(lengths))
        found = FusedOps().joint_attention(given, HEADS, pe, scale=DIM**-0.5)
        wide = [each._replace(qkv=each.qkv.float()) for each in given]
        heads = PLAIN.joint_heads(wide, HEADS, pe)
        wanted, emulated = exact(*heads), attended(*heads, DIM**-0.5)
    assert error(found, wanted) < 1.1 * error(emulated, wanted) + 0.004


@ON_HOPPER
def test_the_kernel_is_asked_only_for_heads_that_it_knows_and_is_worth() -> None:
    from backends.torch_cuda.fused import FusedOps
    from backends.torch_cuda.kernels.coded_heads import FEWEST_TOKENS

    ops, draw = FusedOps(), Draw(torch.bfloat16)
    for lengths in ((FEWEST_TOKENS,), (FEWEST_TOKENS - 1,), (FEWEST_TOKENS, 4, 5)):
        given, pe = streams(draw, lengths), rotation(sum(lengths))
        with torch.inference_mode():
            found = ops.joint_attention(given, HEADS, pe, scale=DIM**-0.5)
            plain = ops.attention(*ops.joint_heads(given, HEADS, pe), scale=DIM**-0.5)
        assert torch.equal(found, plain) == (lengths != (FEWEST_TOKENS,))
