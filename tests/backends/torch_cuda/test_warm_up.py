"""What is warmed up runs by itself, whatever the model, and never stands in the way of a job."""

from __future__ import annotations

import math
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
from flux_core.pipeline.job import WHOLE_PX
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


def test_what_is_new_about_a_size_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, Any]] = []
    monkeypatch.setattr(warm_up, "warm_up", lambda *given, sizes: done.append(("all", sizes)))
    monkeypatch.setattr(warm_up, "_step", lambda *given, sizes: done.append(("a step", sizes)))
    backend = _as_if_on_a_gpu(monkeypatch)
    warm = WarmUp(backend)

    def begin(width_px: int, height_px: int, **fields: Any) -> bool:
        """Whether a decoder is to run beside a step."""
        backend.graphs.meanwhile = None
        thread = warm.begin(build_request(width_px=width_px, height_px=height_px, **fields), MICRO)
        if thread is not None:
            thread.join(10)
        return backend.graphs.meanwhile is not None

    assert [begin(64, 96), begin(64, 96), begin(96, 64), begin(128, 96)] == [True, False, True, True]
    assert done == [("all", [(12, 8), warm_up.OTHER_LATENTS]), ("a step", [(12, 16)])]
    assert not begin(128, 128, step_cache=StepCache.FAST)
    assert begin(128, 128)
    side_px = 16 * (math.isqrt(WHOLE_PX) // 16 + 1)
    assert not begin(side_px, side_px)  # it is decoded in tiles


def test_a_decoder_with_one_block_a_level_has_every_convolution_of_the_whole_one() -> None:
    def convolutions(num_res_blocks: int) -> set[tuple[Any, ...]]:
        seen: set[tuple[Any, ...]] = set()

        leaves = TorchLeaves()
        config = replace(MICRO.autoencoder, num_res_blocks=num_res_blocks)
        decoder = Decoder(TorchOps(), leaves, config)
        for leaf in leaves.modules.values():
            if isinstance(leaf, Conv2d):
                weight = tuple(leaf.weight.shape)
                leaf.register_forward_pre_hook(
                    lambda _, given, weight=weight: seen.add((weight, tuple(given[0].shape)))
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
