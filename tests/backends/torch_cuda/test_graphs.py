"""A recorded step gives the bytes of one that was not recorded, and what cannot be recorded just runs."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.bench.weights import RandomSource
from backends.torch_cuda.engine import TorchEngine
from backends.torch_cuda.graphs import MAX_GRAPHS, MAX_GRAPHS_IN_TIME, Graphs
from backends.torch_cuda.leaves import TorchLeaves
from backends.torch_cuda.ops import TorchOps
from backends.torch_cuda.recording import PAUSES_IN_A_PIECE, Recording
from flux_core import catalog
from flux_core.catalog import TINY, TransformerConfig
from flux_core.models.clip import ClipText
from flux_core.models.t5 import T5Encoder
from flux_core.models.transformer import Residuals, Transformer
from flux_core.request import Precision, StepCache
from flux_core.weights.expected import expected_shapes
from tests.support.engine_runs import run
from tests.support.tiny_random import MICRO

gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="NOT TESTED HERE: CUDA graphs need a CUDA device"
)
CONFIG = replace(TINY.transformer, depth=2, depth_single=2)


class Model:
    """Something with a method that is called often; counts the calls that Python itself makes."""

    def __init__(self) -> None:
        self.calls = 0

    def step(self, x: Tensor, more: Any = (), *, factor: float = 2.0) -> Tensor:
        self.calls += 1
        return x * factor + sum((each.double[0] for each in more), torch.zeros_like(x))


def test_without_a_gpu_a_method_is_handed_back_as_it_is() -> None:
    model = Model()
    assert Graphs(torch.device("cpu")).ready(model.step) == model.step


class Refused:
    """Makes the recording itself impossible, so that what surrounds it can be tried without a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.graphs = Graphs(torch.device("cuda"))
        self.free_bytes = 100
        self.refused = 0
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
        memory = "backends.torch_cuda.graphs.free_and_total_bytes"
        monkeypatch.setattr(memory, lambda device: (self.free_bytes, 100))

        def refuse() -> None:
            self.refused += 1
            raise RuntimeError("no recording here")

        monkeypatch.setattr(torch.cuda, "CUDAGraph", refuse)


def test_a_step_that_cannot_be_recorded_is_computed_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, graphs = Model(), Refused(monkeypatch).graphs
    step = graphs.ready(model.step)
    x = torch.ones(2)
    assert [step(x, factor=3.0).tolist() for _ in range(3)] == [[3.0, 3.0]] * 3
    assert model.calls == 3


def test_where_memory_is_short_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    refused, model = Refused(monkeypatch), Model()
    refused.free_bytes = 9
    step = refused.graphs.ready(model.step)
    assert [step(torch.ones(1)).item() for _ in range(2)] == [2.0, 2.0]
    assert refused.refused == 0


def test_a_step_that_is_given_more_than_arrays_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Decides:
        double = (torch.ones(2),)

    model, graphs = Model(), Refused(monkeypatch).graphs
    assert graphs.ready(model.step)(torch.ones(2), [Decides()]).tolist() == [3.0, 3.0]
    assert len(graphs._kept) == 0


def test_what_was_recorded_goes_with_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model, graphs = Model(), Refused(monkeypatch).graphs
    graphs.ready(model.step)(torch.ones(2))
    assert len(graphs._kept) == 1
    del model
    gc.collect()
    assert len(graphs._kept) == 0


def test_where_recording_at_once_fails_a_step_of_another_shape_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused, model = Refused(monkeypatch), Model()
    step = refused.graphs.ready(model.step)
    assert [step(torch.ones(count)).sum().item() for count in (1, 2)] == [2.0, 4.0]
    assert refused.refused == 3  # behind the first, at once, behind the second
    assert model.calls == 2


def test_a_step_has_a_pause_in_every_block_for_the_thread_that_asked() -> None:
    graphs = Graphs(torch.device("cuda"))
    ops = graphs.pausing(TorchOps())
    model = Transformer(ops, TorchLeaves(), CONFIG)
    used: list[int] = []

    def step() -> None:
        with torch.inference_mode():
            one, places = torch.ones(1), torch.zeros(12, sum(CONFIG.axes_dim) // 2, 2)
            rows = model.modulations(torch.zeros(1, CONFIG.vec_in_dim), one, one)
            txt = torch.zeros(1, 4, CONFIG.context_in_dim)
            model.modulated(torch.zeros(1, 8, CONFIG.in_channels), txt, rows, places)

    with graphs._pauses.used(lambda: used.append(1)):
        beside = threading.Thread(target=step)
        beside.start()
        beside.join()
        assert not used
        step()
    step()
    assert len(used) == CONFIG.depth + CONFIG.depth_single


class Recorded:
    """A recording that keeps a device busy for as long as it is asked for twice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self._asked = 0
        monkeypatch.setattr(torch.cuda, "Event", lambda: self)

    def replay(self, arrays: list[Tensor]) -> Tensor:
        self.done.append("replay")
        self._asked = 0
        return arrays[0]

    def record(self, stream: Any) -> None: ...

    def query(self) -> bool:
        self._asked += 1
        return self._asked > 2


def test_pieces_of_work_are_done_as_long_as_the_device_is_busy_with_a_replay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = Recorded(monkeypatch)

    def work() -> Generator[None]:
        for piece in "abc":
            recorded.done.append(piece)
            yield

    model, graphs = Model(), Refused(monkeypatch).graphs
    step, x = graphs.ready(model.step), torch.ones(2)
    graphs.meanwhile = work()
    step(x)  # the first call, which is not replayed, keeps the thread busy itself
    kept: Any = graphs._kept[model]
    kept.update(dict.fromkeys(kept, recorded))
    assert [step(x).tolist() for _ in range(3)] == [[1.0, 1.0]] * 3
    assert recorded.done == ["replay", "a", "b", "replay", "c", "replay"]
    assert graphs.meanwhile is None


def test_where_the_device_is_busy_with_an_earlier_replay_work_ends_with_that_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded, ends, over = Recorded(monkeypatch), list[object](), list[object]()

    class End:
        """Of a replay, which goes on until it is over."""

        def __init__(self) -> None:
            ends.append(self)

        def record(self, stream: Any) -> None: ...

        def query(self) -> bool:
            return self in over

    monkeypatch.setattr(torch.cuda, "Event", End)

    def work() -> Generator[None]:
        recorded.done.append("a")
        over.append(ends[0])
        yield
        recorded.done.append("b")
        yield

    model, graphs = Model(), Refused(monkeypatch).graphs
    step, x = graphs.ready(model.step), torch.ones(2)
    step(x)
    kept: Any = graphs._kept[model]
    kept.update(dict.fromkeys(kept, recorded))
    step(x)
    graphs.meanwhile = work()
    step(x)
    assert recorded.done == ["replay", "replay", "a"]
    assert ends[1] not in over


def test_work_beside_a_replay_may_go_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded(monkeypatch)

    def work() -> Generator[None]:
        recorded.done.append("work")
        yield
        raise OSError("no room for that")

    model, graphs = Model(), Refused(monkeypatch).graphs
    step, x = graphs.ready(model.step), torch.ones(2)
    step(x)
    graphs.meanwhile = work()
    kept: Any = graphs._kept[model]
    kept.update(dict.fromkeys(kept, recorded))
    assert step(x).tolist() == [1.0, 1.0]
    assert graphs.meanwhile is None
    assert recorded.done == ["replay", "work"]


def test_what_is_called_now_and_then_is_recorded_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    refused, model = Refused(monkeypatch), Model()
    encode = refused.graphs.ready_in_time(model.step)
    tried: list[int] = []
    for count in (1, 2, 1, 2, 2):
        assert encode(torch.ones(count)).tolist() == [2.0] * count
        tried.append(refused.refused)
    assert tried == [0, 0, 1, 2, 2]  # each behind its second call: none of them made anything ready for steps
    assert model.calls == 5
    assert not refused.graphs.is_warm


def test_what_is_called_now_and_then_pushes_out_nothing_of_a_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoder(Model):
        def encode(self, x: Tensor) -> Tensor:
            return x

    graphs, model = Refused(monkeypatch).graphs, Encoder()
    step, encode = graphs.ready(model.step), graphs.ready_in_time(model.encode)
    for length in range(1, MAX_GRAPHS + 1):
        step(torch.ones(length))
    for length in range(1, 6):
        encode(torch.ones(length))
    names = [name for name, _ in graphs._kept[model]]
    assert names == ["step"] * MAX_GRAPHS + ["encode"] * MAX_GRAPHS_IN_TIME


def test_a_method_that_calls_one_that_is_ready_is_recorded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Refused(monkeypatch)

    class Outer(Model):
        inner = refused.graphs.ready(Model().step)

        def step(self, x: Tensor, more: Any = (), *, factor: float = 2.0) -> Tensor:
            return Outer.inner(super().step(x, more, factor=factor))

    model = Outer()
    step = refused.graphs.ready(model.step)
    assert step(torch.ones(1)).item() == 4.0
    assert refused.refused == 1  # the outer one


def test_the_thread_that_records_keeps_nothing_alive() -> None:
    graphs = Graphs(torch.device("cpu"))
    graphs.aside(lambda: None).result()
    kept = weakref.ref(graphs)
    del graphs
    gc.collect()
    assert kept() is None


def test_an_engine_has_its_text_encoders_recorded_by_the_graphs_of_its_device() -> None:
    engine = TorchEngine("cpu", ())
    assert isinstance(engine._backend, TorchBackend)
    assert engine._bench._ready == engine._backend.graphs.ready_in_time


def test_work_aside_is_done_by_one_thread_in_order_and_in_the_mode_of_who_gave_it() -> None:
    graphs = Graphs(torch.device("cpu"))
    found: list[tuple[int, bool]] = []

    def note() -> None:
        found.append((threading.get_ident(), torch.is_inference_mode_enabled()))

    with torch.inference_mode():
        first = graphs.aside(note)
    graphs.aside(note).result()
    assert first.done()
    assert [mode for _, mode in found] == [True, False]
    assert len({thread for thread, _ in found} | {threading.get_ident()}) == 2


@gpu
def test_a_replay_is_the_step_to_the_last_bit_for_other_values() -> None:
    model, graphs = Model(), Graphs(torch.device("cuda"))
    step = graphs.ready(model.step)
    with torch.inference_mode():
        for _ in range(4):
            x, added = torch.randn(2, 64, 8, device="cuda").unbind(0)
            more = [Residuals(double=(added,))]
            assert torch.equal(step(x, more, factor=1.5), model.step(x, more, factor=1.5))
    assert model.calls == 4 + 2  # the reference's; ours ran once and was recorded once


@gpu
def test_a_method_that_gives_several_arrays_is_replayed_with_all_of_them() -> None:
    class Pair(Model):
        def step(self, x: Tensor, more: Any = (), *, factor: float = 2.0) -> Any:
            return x * factor, x + 1.0

    model, graphs = Pair(), Graphs(torch.device("cuda"))
    step = graphs.ready(model.step)
    with torch.inference_mode():
        found = [step(torch.full((2,), float(i), device="cuda")) for i in range(3)]
    assert [(double.tolist(), more.tolist()) for double, more in found] == [
        ([2.0 * i] * 2, [i + 1.0] * 2) for i in range(3)
    ]


@gpu
def test_what_a_replay_gave_stays_when_the_next_one_runs() -> None:
    model, graphs = Model(), Graphs(torch.device("cuda"))
    step = graphs.ready(model.step)
    with torch.inference_mode():
        found = [step(torch.full((3,), float(i), device="cuda")) for i in range(4)]
    assert [values.tolist() for values in found] == [[2.0 * i] * 3 for i in range(4)]


@gpu
def test_every_shape_and_plain_value_has_its_own_and_the_oldest_goes() -> None:
    model, graphs = Model(), Graphs(torch.device("cuda"))
    step = graphs.ready(model.step)
    with torch.inference_mode():
        for length in range(1, MAX_GRAPHS + 3):
            for factor in (2.0, 3.0):
                x = torch.ones(length, device="cuda")
                assert step(x, factor=factor).tolist() == step(x, factor=factor).tolist() == [factor] * length
    assert len(graphs._kept[model]) == MAX_GRAPHS


@gpu
def test_a_failed_recording_harms_nothing_that_follows() -> None:
    class Looks(Model):
        def step(self, x: Tensor, more: Any = (), *, factor: float = 2.0) -> Tensor:
            return x * float(x.sum().item())  # waits for the device, which no recording allows

    looks, model, graphs = Looks(), Model(), Graphs(torch.device("cuda"))
    with torch.inference_mode():
        x = torch.ones(3, device="cuda")
        for _ in range(3):
            assert graphs.ready(looks.step)(x).tolist() == [3.0] * 3
            assert graphs.ready(model.step)(x).tolist() == [2.0] * 3


@gpu
@pytest.mark.parametrize("tokens", [(64, 32), (77, 13)])
def test_a_recorded_step_of_the_transformer_is_the_step_to_the_last_bit(tokens: tuple[int, int]) -> None:
    backend = TorchBackend("cuda")
    model = _transformer(backend)
    with backend.session():
        step = backend.graphs.ready(model.modulated)
        for seed in range(3):
            arguments = _arguments(model, *tokens, seed)
            assert torch.equal(step(*arguments), model.modulated(*arguments))
    assert all(found is not None for found in backend.graphs._kept[model].values())


@gpu
def test_a_step_of_another_shape_is_computed_while_it_is_recorded_in_pieces() -> None:
    backend = TorchBackend("cuda")
    config = replace(CONFIG, depth=PAUSES_IN_A_PIECE, depth_single=PAUSES_IN_A_PIECE + 3)
    model = _transformer(backend, config)
    with backend.session():
        step = backend.graphs.ready(model.modulated)
        for img in (64, 48, 33):
            for seed in range(3):
                arguments = _arguments(model, img, 32, seed)
                assert torch.equal(step(*arguments), model.modulated(*arguments))
    found = [each for each in backend.graphs._kept[model].values() if isinstance(each, Recording)]
    assert [len(each._graphs) for each in found] == [1, 6, 6]  # up to blocks 1, 2, 4, 8 and 16, and the rest


@gpu
def test_what_cannot_be_recorded_at_once_is_computed_and_harms_nothing_that_follows() -> None:
    class Looks(Model):
        def step(self, x: Tensor, more: Any = (), *, factor: float = 2.0) -> Tensor:
            return x * float(x.sum().item())  # waits for the device, which no recording allows

    looks, model, graphs = Looks(), Model(), Graphs(torch.device("cuda"))
    graphs.is_warm = True
    with torch.inference_mode():
        for count in (2, 3):
            x = torch.ones(count, device="cuda")
            assert graphs.ready(looks.step)(x).tolist() == [float(count)] * count
            assert graphs.ready(model.step)(x).tolist() == [2.0] * count


@gpu
def test_recording_takes_less_than_a_second() -> None:
    import time

    backend = TorchBackend("cuda")
    model = _transformer(backend)
    with backend.session():
        arguments = _arguments(model, 64, 32, 0)
        model.modulated(*arguments)
        torch.cuda.synchronize()
        started = time.perf_counter()
        backend.graphs.ready(model.modulated)(*arguments)
        torch.cuda.synchronize()
    assert time.perf_counter() - started < 1.0


@gpu
@pytest.mark.parametrize("fields", [{}, {"num_images": 2}, {"step_cache": StepCache.FAST, "num_steps": 12}])
def test_a_picture_with_recorded_steps_is_the_picture_without(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    engine = TorchEngine("cuda", (models_dir,))
    first, again = (run(engine, seed=3, **fields).pixels for _ in range(2))
    monkeypatch.setattr(engine, "_ready", lambda method: method)
    plain = run(engine, seed=3, **fields).pixels
    assert np.array_equal(first, again)
    assert np.array_equal(first, plain)


@gpu
def test_what_is_recorded_and_called_once_a_picture_paints_the_picture_of_what_was_not(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ["a", "b c", "c a", "b"]
    engine = TorchEngine("cuda", (models_dir,))
    found = [run(engine, seed=3, prompt=prompt).pixels for prompt in prompts]
    backend = engine._backend
    assert isinstance(backend, TorchBackend)
    recorded = {
        type(model)
        for model, kept in backend.graphs._kept.items()
        if any(isinstance(each, Recording) for each in kept.values())
    }
    assert recorded >= {ClipText, T5Encoder}
    (walking,) = (kept for model, kept in backend.graphs._kept.items() if isinstance(model, Transformer))
    kinds = {name for (name, _), each in walking.items() if isinstance(each, Recording)}
    assert kinds == {"modulations", "modulated"}
    plain = TorchEngine("cuda", (models_dir,))
    monkeypatch.setattr(plain._bench, "_ready", lambda method: method)
    for prompt, pixels in zip(prompts, found, strict=True):
        assert np.array_equal(run(plain, seed=3, prompt=prompt).pixels, pixels)


@gpu
def test_the_parts_of_a_cached_evaluation_are_recorded_each(models_dir: Path) -> None:
    engine = TorchEngine("cuda", (models_dir,))
    run(engine, num_steps=12, step_cache=StepCache.FAST)
    backend = engine._backend
    assert isinstance(backend, TorchBackend)
    owners = {type(model): kept for model, kept in backend.graphs._kept.items()}
    assert set(owners) == {Transformer, ClipText, T5Encoder}
    kinds = [(name, each) for (name, _), each in owners[Transformer].items() if name != "modulations"]
    assert {name for name, _ in kinds} == {"begun", "rest", "finished"}
    assert all(isinstance(graph, Recording) for _, graph in kinds)


@pytest.fixture
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from backends.torch_cuda.bench.weights import write_model

    monkeypatch.setitem(catalog.MODELS, MICRO.model, MICRO)
    return write_model(tmp_path, MICRO)


def _transformer(backend: TorchBackend, config: TransformerConfig = CONFIG) -> Transformer:
    def build(ops: Any, make: Any) -> Transformer:
        return Transformer(ops, make, config)

    with backend.session():
        return build(backend.ops, backend.leaves(RandomSource(expected_shapes(build)), Precision.BF16))


def _arguments(model: Transformer, img: int, txt: int, seed: int) -> tuple[Tensor, ...]:
    make = torch.Generator("cuda").manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device="cuda", dtype=torch.bfloat16, generator=make)

    one: Callable[[float], Tensor] = lambda value: torch.full((1,), value, device="cuda")  # noqa: E731
    head_dim = CONFIG.hidden_size // CONFIG.num_heads
    pe = torch.rand(img + txt, head_dim // 2, 2, device="cuda", generator=make)
    rows = model.modulations(draw(1, CONFIG.vec_in_dim), one(0.1 + 0.2 * seed), one(3.5))
    return draw(1, img, CONFIG.in_channels), draw(1, txt, CONFIG.context_in_dim), rows, pe
