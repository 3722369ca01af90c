"""A norm in one kernel, as inference on a GPU has it, is as near to the exact one as in several."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backends.torch_cuda.leaves import RMSNorm


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED HERE: one kernel needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_norm_without_gradients_is_the_norm_with_them(dtype: torch.dtype) -> None:
    make = torch.Generator().manual_seed(0)
    x = (30 * torch.randn((1, 77, 4096), generator=make)).to("cuda", dtype)
    gain = nn.Parameter((1 + 0.2 * torch.randn(4096, generator=make)).to("cuda", dtype), requires_grad=False)
    norm = RMSNorm(gain, 1e-6, "weight")
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain.double()
    with torch.no_grad():
        found = norm(x)
    assert found.dtype is dtype
    assert (found - exact).norm() <= 1.01 * (norm(x) - exact).norm() + 1e-6 * exact.norm()
