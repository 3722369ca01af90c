"""On a processor a small quantised part decodes its weights once; a large one at every call, as before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backends.torch_cuda import backend as torch_backend
from backends.torch_cuda.backend import TorchBackend
from flux_core.plan import Component
from flux_core.request import Precision
from flux_core.weights.lora.patches import Axis, LowRank, Magnitude, Patch
from tests.support.quantised import OneSource, random_tensor

ROWS, COLUMNS = 8, 512
SCHEMES = ["F8_E4M3_SCALED", "NF4", "Q4_K"]
X = torch.randn(3, COLUMNS, generator=torch.Generator().manual_seed(0))


def leaves_of(scheme: str, precision: Precision = Precision.FP32):
    return TorchBackend("cpu").leaves(OneSource(random_tensor(scheme)), precision)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_kept_weight_is_the_decoded_one_to_the_bit(
    scheme: str, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = torch.float32 if precision is Precision.FP32 else torch.bfloat16
    kept = leaves_of(scheme, precision).linear("layer", COLUMNS, ROWS, bias=False)
    monkeypatch.setattr(torch_backend, "KEPT_DECODED_BYTES", ROWS * COLUMNS * dtype.itemsize - 1)
    fresh = leaves_of(scheme, precision).linear("layer", COLUMNS, ROWS, bias=False)
    with torch.inference_mode():
        assert torch.equal(kept(X.to(dtype)), fresh(X.to(dtype)))
    assert kept.weight(dtype) is kept.weight(dtype)
    assert fresh.weight(dtype) is not fresh.weight(dtype)
    assert torch.equal(kept.weight(torch.float64), fresh.weight(torch.float64))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_lora_on_a_kept_weight_comes_off_to_the_bit(scheme: str) -> None:
    leaves = leaves_of(scheme)
    leaf = leaves.linear("layer", COLUMNS, ROWS, bias=False)
    adapters = TorchBackend("cpu").adapters(leaves, Precision.FP32)
    rng = np.random.default_rng(0)
    up, down = (rng.standard_normal(shape).astype(np.float32) for shape in ((ROWS, 2), (2, COLUMNS)))
    lengths = Magnitude(rng.uniform(1, 2, ROWS).astype(np.float32), Axis.ROWS)
    with torch.inference_mode():
        before = leaf(X)
        for magnitude in (None, lengths):
            delta = LowRank(up, down, 0.5, None)
            patch = Patch(Component.TRANSFORMER, "layer", (0, ROWS), COLUMNS, delta, magnitude)
            adapters.attach("ink", [patch], 0.7)
            assert not torch.allclose(leaf(X), before)
            adapters.detach("ink")
            assert torch.equal(leaf(X), before)


def test_what_was_decoded_for_a_picture_may_be_trained_through() -> None:
    leaf = leaves_of("NF4").linear("layer", COLUMNS, ROWS, bias=False)
    with torch.inference_mode():
        leaf(X)
    x = X.clone().requires_grad_()
    leaf(x).sum().backward()
    assert x.grad is not None
