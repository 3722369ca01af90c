"""What is warmed up runs by itself, whatever the model, and never stands in the way of a job."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from backends.torch_cuda import warm_up
from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.leaves import Conv2d, TorchLeaves
from backends.torch_cuda.ops import TorchOps
from backends.torch_cuda.warm_up import WarmUp
from flux_core.catalog import TINY
from flux_core.models.autoencoder import Decoder
from flux_core.pipeline.job import WHOLE_PX
from flux_core.request import Precision, StepCache, build_request
from tests.support.tiny_random import MICRO

SIZES = [(8, 8), (8, 12)]
WORK = "encode", "multiply", "attend", "decode"


@pytest.mark.parametrize("spec", [MICRO, TINY], ids=lambda spec: spec.model)
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16, Precision.FP8])
def test_a_block_of_every_network_runs_once(spec, precision) -> None:
    backend = TorchBackend("cpu")
    with backend.session():
        warm_up.encode(backend, precision, spec)
        warm_up.multiply(backend, precision, spec, SIZES)
        warm_up.attend(backend, precision, spec, SIZES[0])
        warm_up.decode(backend, precision, spec, SIZES)
    assert backend.graphs.is_warm


def test_a_processor_is_not_warmed_up() -> None:
    assert WarmUp(TorchBackend("cpu")).begin(build_request(), TINY) == []


def test_where_memory_is_short_nothing_is_warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = _as_if_on_a_gpu(monkeypatch, free_bytes=2**30)
    assert WarmUp(backend).begin(build_request(), TINY) == []
    assert backend.graphs.meanwhile is None


def test_what_goes_wrong_is_left_to_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that is none: nobody hears of it but the log."""
    for name in WORK:
        monkeypatch.setattr(warm_up, name, _fail)
    begun = WarmUp(_as_if_on_a_gpu(monkeypatch)).begin(build_request(), TINY)
    assert [each.result(10) for each in begun] == [None] * len(WORK)


def test_what_is_new_about_a_size_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done: dict[str, list[Any]] = {name: [] for name in WORK}
    for name, calls in done.items():
        monkeypatch.setattr(warm_up, name, lambda *given, calls=calls: calls.append(given[-1]) or [])
    backend = _as_if_on_a_gpu(monkeypatch)
    warm = WarmUp(backend)

    def begin(width_px: int, height_px: int, **fields: Any) -> bool:
        """Whether a decoder is to run beside a step."""
        begun = warm.begin(build_request(width_px=width_px, height_px=height_px, **fields), MICRO)
        for each in begun:
            each.result(10)
        return backend.graphs.meanwhile is not None

    def plan() -> None:
        assert backend.graphs.meanwhile is not None
        list(backend.graphs.meanwhile)

    monkeypatch.setattr(warm_up, "decoder_plans", lambda *given: iter(()))
    assert begin(64, 96)
    assert begin(64, 96)  # nothing was planned, because that job had no time for it
    plan()
    assert [begin(64, 96), begin(96, 64), begin(128, 96)] == [False, True, True]
    first = [(12, 8), warm_up.OTHER_LATENTS]  # (8, 12) has as many tokens as (12, 8)
    assert done["encode"] == [MICRO]
    assert done["decode"] == [first]
    assert done["multiply"] == [first, [(12, 16)]]
    assert done["attend"] == [(12, 8), (12, 16)]
    assert not begin(128, 128, step_cache=StepCache.FAST)
    assert begin(128, 128)
    side_px = 16 * (math.isqrt(WHOLE_PX) // 16 + 1)
    assert not begin(side_px, side_px)  # it is decoded in tiles


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP8])
def test_attention_of_a_size_is_called_alone_and_all_else_without_it(
    precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    attended: list[torch.Size] = []
    attention = TorchOps.attention

    def attend(ops: Any, q: Tensor, *given: Any, **options: Any) -> Tensor:
        attended.append(q.shape)
        return attention(ops, q, *given, **options)

    monkeypatch.setattr(TorchOps, "attention", attend)
    backend = TorchBackend("cpu")
    with backend.session():
        warm_up.multiply(backend, precision, MICRO, SIZES)
        assert attended == []
        warm_up.attend(backend, precision, MICRO, SIZES[1])
    config = MICRO.transformer
    head_dim = config.hidden_size // config.num_heads
    assert attended == [torch.Size((1, config.num_heads, MICRO.t5_tokens + 24, head_dim))]


def test_every_convolution_of_a_decoder_and_its_attention_is_called_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: set[tuple[Any, ...]] = set()
    attended: list[torch.Size] = []
    convolved, attention = Conv2d._convolved, TorchOps.attention

    def see(conv: Conv2d, x: Tensor, bias: Tensor | None) -> Tensor:
        seen.add((conv.weight.shape, conv.symmetric, x.shape))
        return convolved(conv, x, bias)

    def attend(ops: Any, q: Tensor, *given: Any, **options: Any) -> Tensor:
        attended.append(q.shape)
        return attention(ops, q, *given, **options)

    backend, precision = TorchBackend("cpu"), Precision.FP32
    backend.ops = TorchOps()  # a processor's own double a picture and convolve it at once
    with backend.session():
        kinds = warm_up.decode(backend, precision, MICRO, [SIZES[0]])
        monkeypatch.setattr(Conv2d, "_convolved", see)
        monkeypatch.setattr(TorchOps, "attention", attend)
        pieces = len(list(warm_up.decoder_plans(backend, precision, MICRO, SIZES[1], kinds)))
        planned, heads = set(seen), list(attended)
        seen.clear()
        attended.clear()
        Decoder(backend.ops, TorchLeaves(), MICRO.autoencoder)(torch.zeros(1, *SIZES[1], 16))
    assert planned == seen
    assert heads == attended != []
    assert pieces == len(kinds) + 1


def test_a_convolution_that_needs_much_memory_is_not_planned_beside_a_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend, precision = TorchBackend("cpu"), Precision.FP32
    kinds = [warm_up.Convolution((16, channels, 3, 3), 1, 2) for channels in (16, 17)]
    monkeypatch.setattr(warm_up, "MOST_PLANNED_BYTES", 4 * (16 * 24) * (16 + 16))
    with backend.session():
        pieces = list(warm_up.decoder_plans(backend, precision, MICRO, SIZES[1], kinds))
    assert len(pieces) == 2  # attention and the first


def test_a_decoder_is_planned_once_its_convolutions_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WORK:
        monkeypatch.setattr(warm_up, name, lambda *given: None)
    backend = _as_if_on_a_gpu(monkeypatch)
    warm = WarmUp(backend)
    kinds = [warm_up.Convolution((16, 16, 3, 3), 1, 1)]
    monkeypatch.setattr(warm_up, "decode", lambda *given: kinds)
    planned: list[Any] = []
    monkeypatch.setattr(warm_up, "decoder_plans", lambda *given: planned.append(given[3:]) or iter(()))
    for each in warm.begin(build_request(width_px=64, height_px=96), MICRO):
        each.result(10)
    assert backend.graphs.meanwhile is not None
    assert list(backend.graphs.meanwhile) == []
    assert planned == [((12, 8), kinds)]


def _as_if_on_a_gpu(monkeypatch: pytest.MonkeyPatch, free_bytes: int = 2**40) -> TorchBackend:
    monkeypatch.setattr(warm_up, "free_and_total_bytes", lambda device: (free_bytes, 2**40))
    backend = TorchBackend("cpu")
    backend.device = torch.device("cuda")
    return backend


def _fail(*arguments: object) -> None:
    raise RuntimeError("no such kernel")
