"""What is warmed up runs by itself, whatever the model, and never stands in the way of a job."""

from __future__ import annotations

import threading

import pytest
import torch

from backends.torch_cuda import warm_up
from backends.torch_cuda.backend import TorchBackend
from flux_core.catalog import TINY
from flux_core.request import Precision, build_request
from tests.support.tiny_random import MICRO

SIZES = [(8, 8), (8, 12)]


@pytest.mark.parametrize("spec", [MICRO, TINY], ids=lambda spec: spec.model)
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16, Precision.FP8])
def test_a_block_of_every_network_runs_once(spec, precision) -> None:
    backend = TorchBackend("cpu")
    with backend.session():
        warm_up.warm_up(backend, precision, spec, SIZES)


def test_a_processor_is_not_warmed_up() -> None:
    assert warm_up.start(TorchBackend("cpu"), build_request(), TINY) is None


def test_where_memory_is_short_nothing_is_warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_up, "free_and_total_bytes", lambda device: (2**30, 2**34))
    backend = TorchBackend("cpu")
    backend.device = torch.device("cuda")
    assert warm_up.start(backend, build_request(), TINY) is None


def test_what_goes_wrong_is_left_to_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that is none: the thread ends, and nobody hears of it but the log."""
    monkeypatch.setattr(warm_up, "free_and_total_bytes", lambda device: (2**40, 2**40))
    monkeypatch.setattr(warm_up, "warm_up", _fail)
    backend = TorchBackend("cpu")
    backend.device = torch.device("cuda")
    thread = warm_up.start(backend, build_request(), TINY)
    assert isinstance(thread, threading.Thread)
    thread.join(10)
    assert not thread.is_alive()


def _fail(*arguments: object) -> None:
    raise RuntimeError("no such kernel")
