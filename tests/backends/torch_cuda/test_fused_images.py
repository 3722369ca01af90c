"""The autoencoder's fused operations against the plain ones, on a GPU or in Triton's interpreter."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.leaves import Conv2d, GroupNorm
from backends.torch_cuda.ops import TorchOps
from tests.support.fused import HAS_GPU, Draw, mend_interpreter, triton_only

gpu = pytest.mark.skipif(not HAS_GPU, reason="NOT TESTED HERE: needs a CUDA device")

PLAIN = TorchOps()
ALL_SIZES = [(1, 1, 1), (1, 8, 8), (2, 33, 37), (1, 5, 130)]
SIZES = pytest.mark.parametrize("size", ALL_SIZES)
# A group of one value has no deviation, so 32 channels go with more than one pixel.
NORMED = [(size, 128) for size in ALL_SIZES] + [(size, 32) for size in ALL_SIZES[1:]]
NEAR = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
DTYPES = pytest.mark.parametrize("dtype", list(NEAR), ids=str)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from backends.torch_cuda.fused_images import FusedImageOps

    mend_interpreter(monkeypatch)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # as a backend has it
    with torch.inference_mode(), np.errstate(over="ignore"):  # which a GPU does not tell of
        yield FusedImageOps()


class Layers(Draw):
    """Random arrays and leaves in one dtype."""

    def norm(self, channels: int, groups: int = 32) -> GroupNorm:
        return GroupNorm(self._kept(1 + 0.2 * self(channels)), self._kept(self(channels)), groups, 1e-6)

    def conv(self, in_dim: int, out_dim: int, kernel: int = 3) -> Conv2d:
        weight = self(out_dim, in_dim, kernel, kernel) * (in_dim * kernel * kernel) ** -0.5
        weight = weight.contiguous(memory_format=torch.channels_last)
        pad = kernel // 2
        return Conv2d(self._kept(weight), self._kept(self(out_dim)), 1, (pad, pad))

    def _kept(self, values: Tensor) -> nn.Parameter:
        return nn.Parameter(values, requires_grad=False)


def assert_near(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    error = (found.float() - wanted.float()).norm() / wanted.float().norm()
    assert error < NEAR[wanted.dtype], f"{float(error):.2e}"


@gpu
def test_a_convolution_in_float32_has_the_digits_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # torch's own choice
    TorchBackend("cuda")
    draw = Layers(torch.float32)
    x, conv = draw(1, 9, 9, 64), draw.conv(64, 64)
    assert conv.bias is not None
    weight, bias = conv.weight.double(), conv.bias.double()
    exact = nn.functional.conv2d(x.double().permute(0, 3, 1, 2), weight, bias, padding=1)
    assert_near(conv(x), exact.permute(0, 2, 3, 1).float())


@triton_only
@DTYPES
@pytest.mark.parametrize(("size", "channels"), NORMED)
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_a_norm_with_its_activation(
    fused: Any, size: tuple[int, ...], dtype: torch.dtype, channels: int, mean: float
) -> None:
    draw = Layers(dtype)
    x, norm = draw(*size, channels) + mean, draw.norm(channels)
    weight, bias = (nn.Parameter(each.double(), requires_grad=False) for each in (norm.weight, norm.bias))
    exact = PLAIN.norm_silu(x.double(), GroupNorm(weight, bias, norm.groups, norm.eps))
    assert_near(fused.norm_silu(x, norm), exact.to(dtype))


@triton_only
@SIZES
@DTYPES
@pytest.mark.parametrize("out", [64, 128])
def test_a_block_with_and_without_another_width(
    fused: Any, size: tuple[int, ...], dtype: torch.dtype, out: int
) -> None:
    draw = Layers(dtype)
    x = draw(*size, 64)
    shortcut = None if out == 64 else draw.conv(64, out, kernel=1)
    leaves = draw.norm(64), draw.conv(64, out), draw.norm(out), draw.conv(out, out), shortcut
    assert_near(fused.res_block(x, *leaves), PLAIN.res_block(x, *leaves))


@triton_only
@SIZES
@DTYPES
def test_doubling_before_a_convolution(fused: Any, size: tuple[int, ...], dtype: torch.dtype) -> None:
    draw = Layers(dtype)
    x, conv = draw(*size, 64), draw.conv(64, 64)
    assert_near(fused.upsample_conv(x, conv), PLAIN.upsample_conv(x, conv))


@triton_only
@pytest.mark.parametrize("channels", [48, 96])
def test_channels_that_no_kernel_takes_are_computed_plainly(fused: Any, channels: int) -> None:
    draw = Layers(torch.float32)
    x = draw(1, 6, 5, channels)
    leaves = draw.norm(channels, 16), draw.conv(channels, channels), draw.norm(channels, 16)
    block = (*leaves, draw.conv(channels, channels), None)
    assert torch.equal(fused.norm_silu(x, leaves[0]), PLAIN.norm_silu(x, leaves[0]))
    assert torch.equal(fused.res_block(x, *block), PLAIN.res_block(x, *block))
    assert torch.equal(fused.upsample_conv(x, leaves[1]), PLAIN.upsample_conv(x, leaves[1]))


@triton_only
def test_with_gradients_the_plain_operations_run() -> None:
    from backends.torch_cuda.fused_images import FusedImageOps

    draw = Layers(torch.float32)
    x = draw(1, 4, 4, 32).requires_grad_()
    FusedImageOps().norm_silu(x, draw.norm(32)).sum().backward()
    assert x.grad is not None


def test_a_wide_head_attends_as_any_other() -> None:
    from backends.torch_cuda.kernels import wide_attention

    draw = Layers(torch.float32)
    q, k, v = (draw(1, 1, 77, 512) for _ in range(3))
    found = wide_attention.wide_attention(q, k, v, 512**-0.5).transpose(1, 2).flatten(2)
    assert_near(found, PLAIN.attention(q, k, v, scale=512**-0.5))


def test_a_wide_head_attends_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from backends.torch_cuda.kernels import wide_attention

    draw = Layers(torch.float32)
    q, k, v = (draw(1, 1, 77, 512) for _ in range(3))
    whole = wide_attention.wide_attention(q, k, v, 0.1)
    monkeypatch.setattr(wide_attention, "_PART_QUERIES", 30)
    assert_near(wide_attention.wide_attention(q, k, v, 0.1), whole)


@gpu
def test_a_bias_of_any_layout_is_laid_out_once_and_forgotten_with_it(fused: Any) -> None:
    draw = Layers(torch.bfloat16)
    q, k, v = (draw(1, 4, 24, 64) for _ in range(3))
    bias = draw(24, 24, 4).permute(2, 0, 1)[None]
    wanted = PLAIN.attention(q, k, v, scale=1.0, bias=bias)
    assert_near(fused.attention(q, k, v, scale=1.0, bias=bias), wanted)
    kept = fused._bias[1]
    fused.attention(q, k, v, scale=1.0, bias=bias)
    assert fused._bias[1] is kept
    del bias
    gc.collect()
    assert fused._bias is None
