"""What is warmed up runs by itself, whatever the model, and never stands in the way of a job."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch

from backends.torch_cuda import warm_up
from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.leaves import Conv2d, TorchLeaves
from backends.torch_cuda.ops import TorchOps
from backends.torch_cuda.warm_up import WarmUp
from flux_core.catalog import TINY
from flux_core.models.autoencoder import Decoder
from flux_core.request import Precision, StepCache, build_request
from tests.support.tiny_random import MICRO

SIZES = [(8, 8), (8, 12)]


@pytest.mark.parametrize("spec", [MICRO, TINY], ids=lambda spec: spec.model)
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16, Precision.FP8])
def test_a_block_of_every_network_runs_once(spec, precision) -> None:
    backend = TorchBackend("cpu")
    with backend.session():
        warm_up.warm_up(backend, precision, spec, SIZES)


def test_a_processor_is_not_warmed_up() -> None:
    assert WarmUp(TorchBackend("cpu")).begin(build_request(), TINY) is None


def test_where_memory_is_short_nothing_is_warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = _as_if_on_a_gpu(monkeypatch, free_bytes=2**30)
    assert WarmUp(backend).begin(build_request(), TINY) is None
    assert backend.graphs.meanwhile is None


def test_what_goes_wrong_is_left_to_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that is none: the thread ends, and nobody hears of it but the log."""
    monkeypatch.setattr(warm_up, "warm_up", _fail)
    thread = WarmUp(_as_if_on_a_gpu(monkeypatch)).begin(build_request(), TINY)
    assert isinstance(thread, threading.Thread)
    thread.join(10)
    assert not thread.is_alive()


def test_a_decoder_of_each_new_size_runs_beside_a_step_and_the_rest_beside_the_first_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(warm_up, "warm_up", _fail)
    backend = _as_if_on_a_gpu(monkeypatch)
    warm = WarmUp(backend)
    for width_px, is_new in [(64, True), (64, False), (96, True)]:
        backend.graphs.meanwhile = None
        thread = warm.begin(build_request(width_px=width_px, height_px=64), MICRO)
        assert (thread is not None) == (width_px == 64 and is_new)
        assert (backend.graphs.meanwhile is not None) == is_new
        if thread is not None:
            thread.join(10)
    cached = build_request(width_px=128, height_px=64, step_cache=StepCache.FAST)
    backend.graphs.meanwhile = None
    warm.begin(cached, MICRO)
    assert backend.graphs.meanwhile is None  # its graphs are short


def test_a_decoder_with_one_block_a_level_has_every_convolution_of_the_whole_one() -> None:
    def convolutions(num_res_blocks: int) -> set[tuple[Any, ...]]:
        seen: set[tuple[Any, ...]] = set()

        leaves = TorchLeaves()
        config = replace(MICRO.autoencoder, num_res_blocks=num_res_blocks)
        decoder = Decoder(TorchOps(), leaves, config)
        for leaf in leaves.modules.values():
            if isinstance(leaf, Conv2d):
                leaf.register_forward_pre_hook(
                    lambda leaf, given: seen.add((tuple(leaf.weight.shape), tuple(given[0].shape)))
                )
        with torch.inference_mode():
            decoder(torch.zeros(1, 8, 12, config.latent_channels))
        return seen

    assert convolutions(0) == convolutions(MICRO.autoencoder.num_res_blocks)


def _as_if_on_a_gpu(monkeypatch: pytest.MonkeyPatch, free_bytes: int = 2**40) -> TorchBackend:
    monkeypatch.setattr(warm_up, "free_and_total_bytes", lambda device: (free_bytes, 2**40))
    backend = TorchBackend("cpu")
    backend.device = torch.device("cuda")
    return backend


def _fail(*arguments: object) -> None:
    raise RuntimeError("no such kernel")
