"""The fused operations against the plain ones they stand for, on a GPU or in Triton's interpreter."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from backends.torch_cuda.eight_bit import EightBitLinear, EightBitWeight, computes_in_eight_bits
from backends.torch_cuda.leaves import Linear, RMSNorm
from backends.torch_cuda.ops import TorchOps
from flux_core.conditioning.packing import position_ids, rotary_table
from flux_core.ops import HeadStream, Modulated, Sum
from tests.support.fused import DEVICE, HAS_GPU, Draw, mend_interpreter, triton_only

pytestmark = triton_only
HAS_EIGHT_BITS = not HAS_GPU or computes_in_eight_bits(DEVICE)
PLAIN = TorchOps()
NEAR = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 1.5e-3}
DTYPES = pytest.mark.parametrize("dtype", list(NEAR), ids=str)
ROWS = pytest.mark.parametrize(("batch", "length", "dim"), [(1, 7, 64), (2, 5, 48), (1, 1, 3072)])


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from backends.torch_cuda.fused import FusedOps

    mend_interpreter(monkeypatch)
    with torch.inference_mode():
        yield FusedOps()


def test_attention_prefers_one_kernel_in_all_threads_of_a_process(fused) -> None:
    """Two threads that each set the order around their calls would choose for each other."""
    orders: list[list[int]] = []
    beside = threading.Thread(target=lambda: orders.append(torch._C._get_sdp_priority_order()))
    beside.start()
    beside.join()
    assert orders[0][0] == SDPBackend.CUDNN_ATTENTION.value
    x = torch.randn(1, 2, 8, 16, device=DEVICE)
    fused.attention(x, x, x, scale=0.25)
    assert torch._C._get_sdp_priority_order() == orders[0]


class Layers(Draw):
    """Random arrays and leaves in one dtype."""

    def wide(self, batch: int, length: int, dim: int) -> Tensor:
        """[batch, length, dim] cut out of something larger on both axes."""
        return self(batch, length + 2, dim + 24)[:, 1:-1, 8:-16]

    def linear(self, in_dim: int, out_dim: int, in_eight_bits: bool = False) -> Linear:
        weight = self(out_dim, in_dim) * in_dim**-0.5
        bias = nn.Parameter(self(out_dim), requires_grad=False)
        if in_eight_bits:
            return EightBitLinear(EightBitWeight.made_of(weight), bias)
        return Linear(nn.Parameter(weight, requires_grad=False), bias)

    def norm(self, dim: int) -> RMSNorm:
        return RMSNorm(nn.Parameter(1 + 0.2 * self(dim), requires_grad=False), 1e-6, "scale")


class Adapter(nn.Module):
    """Adds some of its input to the output, as a LoRA would, and keeps what it saw."""

    seen: Tensor | None = None

    def forward(self, leaf: Linear, x: Tensor, y: Tensor) -> Tensor:
        self.seen = x
        return y + x.mean(-1, keepdim=True)


def elsewhere(fused: Any) -> Any:
    """The same operations where attention waits for other devices, and products are cut to fill the wait."""
    return type("Elsewhere", (type(fused),), {"attends_elsewhere": True})()


def assert_near(found: Tensor, wanted: Tensor, share: float) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    error = (found.float() - wanted.float()).norm() / wanted.float().norm()
    assert error <= share, f"{float(error):.2e}"


@DTYPES
@ROWS
def test_norm_and_modulation(fused: Any, dtype: torch.dtype, batch: int, length: int, dim: int) -> None:
    draw = Layers(dtype)
    x, mods = 3 + draw.wide(batch, length, dim), draw(batch, 6, dim)
    inputs = x, mods[:, 1:2], mods[:, 4:5], 1e-6
    assert_near(fused.modulated_norm(*inputs), PLAIN.modulated_norm(*inputs), NEAR[dtype])


@DTYPES
@ROWS
def test_gated_add(fused: Any, dtype: torch.dtype, batch: int, length: int, dim: int) -> None:
    draw = Layers(dtype)
    x, y, mods = draw.wide(batch, length, dim), draw.wide(batch, length, dim), draw(1, 3, dim)
    assert_near(fused.gated_add(x, mods[:, 2:], y), PLAIN.gated_add(x, mods[:, 2:], y), NEAR[dtype])


@DTYPES
@ROWS
@pytest.mark.parametrize("in_eight_bits", [False, True], ids=["plain", "eight bits"])
@pytest.mark.parametrize("is_adapted", [False, True], ids=["", "with LoRA"])
def test_compositions_with_products(
    fused: Any, dtype: torch.dtype, batch: int, length: int, dim: int, in_eight_bits: bool, is_adapted: bool
) -> None:
    if in_eight_bits and not (HAS_EIGHT_BITS and (dtype is torch.bfloat16 or not HAS_GPU)):
        pytest.skip("NOT TESTED HERE: this GPU does not multiply eight-bit floats into this dtype")
    dim = min(dim, 256)
    draw = Layers(dtype)
    up, down = draw.linear(dim, 4 * dim, in_eight_bits), draw.linear(4 * dim, dim, in_eight_bits)
    linear1 = draw.linear(dim, 7 * dim, in_eight_bits)
    linear2 = draw.linear(5 * dim, dim, in_eight_bits)
    if is_adapted:
        for leaf in (up, down, linear1, linear2):
            leaf.adapters.append(Adapter())
    x, y, mods = draw.wide(batch, length, dim), draw.wide(batch, length, dim), draw(batch, 6, dim)
    gate, shift, scale = (mods[:, i : i + 1] for i in range(3))

    def attend(qkv: Tensor) -> Tensor:
        q, k, v = qkv.split(dim, dim=2)
        return q * k + v

    # A rounding to the nearest of 256 codes falls on the other side where the input differs in its last bit.
    share = (4e-3 if dtype is torch.float32 else 4e-2) if in_eight_bits else NEAR[dtype]
    calls = (
        ("modulated_linear", (x, shift, scale, 1e-6, up)),
        ("gated_mlp", (x, gate, y, shift, scale, 1e-6, up, down)),
        ("parallel_mlp", (x, shift, scale, 1e-6, linear1, linear2, attend)),
        ("gated_parallel_mlp", (x, gate, y, shift, scale, 1e-6, linear1, linear2, attend)),
    )
    for ops, (name, inputs) in (*((fused, call) for call in calls), (elsewhere(fused), calls[2])):
        found, wanted = getattr(ops, name)(*inputs), getattr(PLAIN, name)(*inputs)
        found, wanted = (each if isinstance(each, tuple) else (each,) for each in (found, wanted))
        for one, other in zip(found, wanted, strict=True):
            assert_near(one, other, share)


@DTYPES
@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize(("batch", "lengths"), [(1, (9,)), (2, (3, 4)), (1, (1, 6, 2))])
@pytest.mark.parametrize("num_heads", [2, 11])
def test_heads_of_several_streams(
    fused: Any, dtype: torch.dtype, head_dim: int, batch: int, lengths: tuple[int, ...], num_heads: int
) -> None:
    draw = Layers(dtype)
    streams = [
        HeadStream(
            draw.wide(batch, length, 3 * num_heads * head_dim), draw.norm(head_dim), draw.norm(head_dim)
        )
        for length in lengths
    ]
    ids = position_ids(0, 2, 2 * sum(lengths))
    axes = (head_dim // 4, head_dim // 4, head_dim // 2)
    pe = torch.from_numpy(rotary_table(ids, axes, 10_000.0)).to(DEVICE)
    found, wanted = (ops.joint_heads(streams, num_heads, pe) for ops in (fused, PLAIN))
    for one, other in zip(found, wanted, strict=True):
        assert_near(one, other, NEAR[dtype])


@DTYPES
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("in_eight_bits", [False, True], ids=["plain", "eight bits"])
@pytest.mark.parametrize("is_adapted", [False, True], ids=["", "with LoRA"])
def test_streams_on_their_way_into_a_joint_attention(
    fused: Any, dtype: torch.dtype, batch: int, in_eight_bits: bool, is_adapted: bool
) -> None:
    if in_eight_bits and not (HAS_EIGHT_BITS and (dtype is torch.bfloat16 or not HAS_GPU)):
        pytest.skip("NOT TESTED HERE: this GPU does not multiply eight-bit floats into this dtype")
    draw, dim = Layers(dtype), 64
    streams: list[Modulated] = []
    for length, is_sum in ((3, True), (6, False)):
        mods, linear = draw(batch, 3, dim), draw.linear(dim, 3 * dim, in_eight_bits)
        if is_adapted:
            linear.adapters.append(Adapter())
        x = draw.wide(batch, length, dim)
        x = Sum(x, mods[:, 2:], draw.wide(batch, length, dim)) if is_sum else Sum(x)
        streams.append(Modulated(x, mods[:, :1], mods[:, 1:2], linear))
    found, wanted = (ops.modulated_linears(streams, 1e-6) for ops in (fused, PLAIN))
    share = (4e-3 if dtype is torch.float32 else 4e-2) if in_eight_bits else NEAR[dtype]
    for (x, out), (wanted_x, wanted_out) in zip(found, wanted, strict=True):
        assert_near(x, wanted_x, NEAR[dtype])
        assert_near(out, wanted_out, share)


@DTYPES
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("lengths", [(4, 9), (1, 6, 2)])
def test_values_of_projections_that_lie_one_behind_the_other_are_not_copied(
    fused: Any, dtype: torch.dtype, batch: int, lengths: tuple[int, ...]
) -> None:
    draw, num_heads, head_dim = Layers(dtype), 3, 32
    whole = draw.wide(batch, sum(lengths), 3 * num_heads * head_dim)
    streams = [
        HeadStream(part, draw.norm(head_dim), draw.norm(head_dim)) for part in whole.split(lengths, dim=1)
    ]
    pe = torch.from_numpy(rotary_table(position_ids(0, 2, 2 * sum(lengths)), (8, 8, 16), 10_000.0)).to(DEVICE)
    found, wanted = (ops.joint_heads(streams, num_heads, pe) for ops in (fused, PLAIN))
    for one, other in zip(found, wanted, strict=True):
        assert_near(one, other, NEAR[dtype])
    assert found[2].untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    assert found[0].untyped_storage().data_ptr() != whole.untyped_storage().data_ptr()


@DTYPES
@pytest.mark.parametrize("lengths", [(9,), (3, 4)])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_heads_lie_by_the_ranks_that_attend_with_them(
    fused: Any, dtype: torch.dtype, lengths: tuple[int, ...], rank: int
) -> None:
    draw, head_dim, total = Layers(dtype), 32, sum(lengths)
    streams = [HeadStream(draw.wide(1, n, 3 * 6 * head_dim), draw.norm(head_dim), draw.norm(head_dim))
               for n in lengths]  # fmt: skip
    pe = torch.from_numpy(rotary_table(position_ids(0, 2, 2 * total), (8, 8, 16), 10_000.0)).to(DEVICE)
    heads = torch.stack([part[0] for part in PLAIN.joint_heads(streams, 6, pe)])  # [3, H, L, D]
    for ops in (fused, PLAIN):
        rows = draw(3 * total + 5, 3, 2, head_dim)
        behind = rows[3 * total :].clone()
        ops.heads_by_rank(streams, 6, pe, rows, rank)
        for place, other in enumerate([*(each for each in range(3) if each != rank), rank]):
            wanted = heads[:, 2 * other : 2 * other + 2].permute(2, 0, 1, 3)
            assert_near(rows[place * total :][:total], wanted, NEAR[dtype])
        assert torch.equal(rows[3 * total :], behind)


def test_with_gradients_the_plain_operations_run() -> None:
    from backends.torch_cuda.fused import FusedOps

    draw = Layers(torch.float32)
    x = draw(1, 3, 32).requires_grad_()
    ops, mods = FusedOps(), draw(1, 3, 32)
    assert ops.gated_add(x, mods[:, :1], draw(1, 3, 32)).requires_grad
    assert not ops.adds_late
    streams = [Modulated(Sum(x), mods[:, 1:2], mods[:, 2:], draw.linear(32, 96))] * 2
    assert all(out.requires_grad for _, out in ops.modulated_linears(streams, 1e-6))
