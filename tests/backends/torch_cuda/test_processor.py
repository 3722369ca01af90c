"""The processor's fused operations mean what the plain ones mean, and stand back where they do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backends.torch_cuda import processor
from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.leaves import Conv2d, GroupNorm, Linear, RMSNorm
from backends.torch_cuda.ops import TorchOps
from backends.torch_cuda.processor import ProcessorOps, keep_freed_memory
from flux_core.ops import HeadStream

HEADS, HEAD_DIM, WIDE = 3, 8, 40
DIM = HEADS * HEAD_DIM
PLAIN, FUSED = TorchOps(), ProcessorOps()


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def rotation(length: int) -> Tensor:
    angles = normal(length, HEAD_DIM // 2)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rms_norm(seed: int) -> RMSNorm:
    weight = 1 + 0.3 * torch.randn(HEAD_DIM, generator=torch.Generator().manual_seed(seed))
    return RMSNorm(nn.Parameter(weight), 1e-6, "scale")


def linear(out_dim: int, in_dim: int) -> Linear:
    return Linear(nn.Parameter(normal(out_dim, in_dim) / in_dim**0.5), nn.Parameter(normal(out_dim)))


def conv(out_dim: int, kernel: int) -> Conv2d:
    weight = nn.Parameter(normal(out_dim, DIM, kernel, kernel) / (kernel * kernel * DIM) ** 0.5)
    return Conv2d(weight, nn.Parameter(normal(out_dim)), stride=1, padding=(kernel // 2, kernel // 2))


def modulation(batch: int) -> tuple[Tensor, Tensor]:
    return normal(batch, 1, DIM), normal(batch, 1, DIM + 0) * 0.5


def stream(batch: int, length: int) -> HeadStream:
    return HeadStream(normal(batch, length, 3 * DIM), rms_norm(length), rms_norm(length + 1))


def norm(ops: Any, dtype: torch.dtype, batch: int, length: int) -> list[Tensor]:
    shift, scale = (each.to(dtype) for each in modulation(batch))
    return [ops.modulated_norm(normal(batch, length, DIM).to(dtype), shift, scale, 1e-6)]


def add(ops: Any, dtype: torch.dtype, batch: int, length: int) -> list[Tensor]:
    x, y = normal(batch, length, DIM).to(dtype), normal(batch, DIM, length).mT.to(dtype)
    return [ops.gated_add(x, modulation(batch)[0].to(dtype), y)]


def gelu(ops: Any, dtype: torch.dtype, batch: int, length: int) -> list[Tensor]:
    return [ops.gelu_tanh(4 * normal(batch, length, WIDE).to(dtype))]


def heads_of_one(ops: Any, dtype: torch.dtype, batch: int, length: int) -> list[Tensor]:
    qkv, *leaves = stream(batch, length)
    return list(ops.joint_heads([HeadStream(qkv.to(dtype), *leaves)], HEADS, rotation(length)))


def heads_of_two(ops: Any, dtype: torch.dtype, batch: int, length: int) -> list[Tensor]:
    streams = [stream(batch, length), stream(batch, length + 4)]
    streams = [each._replace(qkv=each.qkv.to(dtype)) for each in streams]
    return list(ops.joint_heads(streams, HEADS, rotation(2 * length + 4)))


def parallel(ops: Any, dtype: torch.dtype, batch: int, length: int) -> list[Tensor]:
    shift, scale = (each.to(dtype) for each in modulation(batch))
    linear1, linear2 = linear(3 * DIM + WIDE, DIM).to(dtype), linear(DIM, DIM + WIDE).to(dtype)
    x = normal(batch, length, DIM).to(dtype)
    attended: list[Tensor] = []

    def attend(qkv: Tensor) -> Tensor:
        attended.append(qkv.clone())
        return qkv[..., :DIM] * qkv[..., -DIM:]

    return [ops.parallel_mlp(x, shift, scale, 1e-6, linear1, linear2, attend), *attended]


def gated(ops: Any, dtype: torch.dtype, batch: int, length: int) -> list[Tensor]:
    shift, scale = (each.to(dtype) for each in modulation(batch))
    up, down = linear(WIDE, DIM).to(dtype), linear(DIM, WIDE).to(dtype)
    x, y = normal(batch, length, DIM).to(dtype), normal(batch, DIM, length).mT.to(dtype)
    return list(ops.gated_mlp(x, modulation(batch)[0].to(dtype), y, shift, scale, 1e-6, up, down))


def norm_silu(ops: Any, dtype: torch.dtype, batch: int, length: int) -> list[Tensor]:
    leaf = GroupNorm(nn.Parameter(normal(DIM)), nn.Parameter(normal(DIM)), groups=HEADS, eps=1e-6).to(dtype)
    x = normal(batch, length, 5, DIM).to(dtype)
    before = x.clone()
    y = ops.norm_silu(x, leaf)
    assert torch.equal(x, before)
    return [y]


def upsampled(ops: Any, dtype: torch.dtype, batch: int, length: int) -> list[Tensor]:
    return [ops.upsample_conv(normal(batch, length, 5, DIM).to(dtype), conv(7, 3).to(dtype))]


def residual(ops: Any, dtype: torch.dtype, batch: int, length: int) -> list[Tensor]:
    norms = [
        GroupNorm(nn.Parameter(normal(DIM)), nn.Parameter(normal(DIM) + i), groups=HEADS, eps=1e-6).to(dtype)
        for i in range(2)
    ]
    convs = [conv(DIM, kernel).to(dtype) for kernel in (3, 3, 1)]
    x = normal(batch, length, 5, DIM).to(dtype)
    before = x.detach().clone()
    blocks = [
        ops.res_block(x, norms[0], convs[0], norms[1], convs[1], shortcut) for shortcut in (None, convs[2])
    ]
    assert torch.equal(x, before)
    return blocks


ALL = (norm, add, gelu, gated, heads_of_one, heads_of_two, parallel, norm_silu, residual, upsampled)


@pytest.mark.parametrize("length", [1, 13, 64])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("run", ALL, ids=lambda run: run.__name__)
def test_a_fused_operation_differs_from_the_plain_one_by_rounding_alone(run, batch, length):
    with torch.inference_mode():
        for ours, plain in zip(
            run(FUSED, torch.float32, batch, length), run(PLAIN, torch.float32, batch, length), strict=True
        ):
            torch.testing.assert_close(ours, plain, rtol=2e-6, atol=4e-6)


@pytest.mark.parametrize(
    "is_one", {False, processor.HAS_ONEDNN}, ids=["by itself", "in the product"].__getitem__
)
@pytest.mark.parametrize("run", [gated, parallel], ids=lambda run: run.__name__)
def test_with_gelu_in_the_product_or_by_itself_it_is_the_same(run, is_one, monkeypatch):
    with torch.inference_mode():
        true = run(PLAIN, torch.float32, 2, 13)
        monkeypatch.setattr(processor, "GELU_IN_PRODUCTS", is_one)
        for ours, plain in zip(run(FUSED, torch.float32, 2, 13), true, strict=True):
            torch.testing.assert_close(ours, plain, rtol=2e-6, atol=4e-6)


@pytest.mark.parametrize("run", ALL, ids=lambda run: run.__name__)
def test_in_bfloat16_it_is_no_farther_from_the_truth_than_the_plain_one(run):
    with torch.inference_mode():
        truth = run(PLAIN, torch.float64, 1, 13)
        ours, plain = (run(ops, torch.bfloat16, 1, 13) for ops in (FUSED, PLAIN))
    for one, other, true in zip(ours, plain, truth, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one - true).abs().mean() <= 1.05 * (other - true).abs().mean()


@pytest.mark.parametrize("run", ALL, ids=lambda run: run.__name__)
def test_what_is_learnt_through_it_is_the_same(run):
    ours_all, plain_all = _learnt(run, FUSED), _learnt(run, PLAIN)
    assert ours_all
    for ours, plain in zip(ours_all, plain_all, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def _learnt(run: Any, ops: Any) -> list[Tensor]:
    """The gradients of every array that a run draws."""
    seen: list[Tensor] = []
    draw = normal

    def watched(*shape: int) -> Tensor:
        seen.append(draw(*shape).requires_grad_())
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "normal", watched)
        torch.cat([each.flatten() for each in run(ops, torch.float32, 1, 5)]).square().sum().backward()
    return [each.grad for each in seen if each.grad is not None]


FAR = torch.tensor([-1e4, -30.0, -9.0, -0.0, 0.0, 9.0, 30.0, 1e4])


def test_gelu_is_itself_far_from_zero():
    with torch.inference_mode():
        torch.testing.assert_close(FUSED.gelu_tanh(FAR), PLAIN.gelu_tanh(FAR), rtol=1e-6, atol=1e-6)


def test_so_it_is_where_it_comes_out_of_a_product():
    same = Linear(nn.Parameter(torch.eye(len(FAR))), nn.Parameter(torch.zeros(len(FAR))))
    row = FAR[None, None]
    nothing = torch.zeros(1, 1, len(FAR))
    with torch.inference_mode():  # with a scale of 1 - 1, what is normed is the shift
        _, y = FUSED.gated_mlp(nothing, nothing, nothing, row, nothing - 1, 1e-6, same, same)
        torch.testing.assert_close(y, PLAIN.gelu_tanh(row), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("run", [gated, parallel], ids=lambda run: run.__name__)
def test_what_hangs_beside_a_weight_is_heard(run, monkeypatch):
    def adapted(out_dim: int, in_dim: int) -> Linear:
        leaf = plain(out_dim, in_dim)
        leaf.adapters.append(Doubled())
        return leaf

    plain = linear
    monkeypatch.setitem(globals(), "linear", adapted)
    with torch.inference_mode():
        for ours, true in zip(run(FUSED, torch.float32, 1, 5), run(PLAIN, torch.float32, 1, 5), strict=True):
            torch.testing.assert_close(ours, true, rtol=2e-6, atol=2e-5)


class Doubled(nn.Module):
    """An adapter that adds the product once more."""

    def forward(self, leaf: Linear, x: Tensor, y: Tensor) -> Tensor:
        return 2 * y


@pytest.mark.parametrize("shape", [(2, 301, 1000), (3, 2**17 + 5)])
def test_gelu_of_more_than_a_cache_holds_is_the_gelu_of_its_rows(shape: tuple[int, ...]):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(FUSED.gelu_tanh(x), PLAIN.gelu_tanh(x), rtol=1e-5, atol=1e-6)


def test_a_processor_computes_with_them_and_keeping_memory_can_be_asked_for_anywhere():
    assert isinstance(TorchBackend("cpu").ops, ProcessorOps)
    keep_freed_memory()
    keep_freed_memory()
