"""A model whose weights come when they are used computes the same as with all of them there, to the bit."""

from __future__ import annotations

import functools
import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.eight_bit import lies_in_eight_bits
from backends.torch_cuda.engine import TorchEngine
from backends.torch_cuda.leaves import Linear
from backends.torch_cuda.offload import host
from backends.torch_cuda.offload.host import HostMemory
from backends.torch_cuda.offload.schedule import Bucket, divided
from backends.torch_cuda.offload.stream import Stream
from backends.torch_cuda.packed import PackedWeight
from flux_core import catalog
from flux_core.catalog import TransformerConfig
from flux_core.conditioning.packing import position_ids, rotary_table
from flux_core.errors import Cancelled, OutOfMemory
from flux_core.messages import Progress, Stage
from flux_core.models.transformer import BLOCK_MATRIX, Transformer
from flux_core.plan import Component
from flux_core.request import Precision
from flux_core.weights.expected import expected_shapes
from flux_core.weights.lora.patches import Axis, LowRank, Magnitude, Patch
from flux_core.weights.tensors import RawTensor, TensorInfo, TensorSource
from tests.support.engine_runs import run
from tests.support.numerics import ArraySource, random_weights
from tests.support.quantised import in_gguf_type
from tests.support.tiny_random import MICRO, write_models_dir

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONFIG = TransformerConfig(
    hidden_size=256,
    num_heads=2,
    depth=2,
    depth_single=3,
    mlp_hidden=512,
    context_in_dim=256,
    vec_in_dim=256,
    has_guidance=False,
)
LINEAR1 = "single_blocks.1.linear1"


def shapes() -> dict[str, tuple[int, ...]]:
    return expected_shapes(lambda ops, make: Transformer(ops, make, CONFIG))


class Source:
    """A TensorSource whose block matrices are in a scheme."""

    metadata: dict[str, str] = {}

    def __init__(self, scheme: str) -> None:
        self._plain = ArraySource(random_weights(shapes()))
        self._scheme = scheme
        self._coded: dict[str, RawTensor] = {}

    def _is_coded(self, name: str) -> bool:
        return name.endswith("weight") and BLOCK_MATRIX.search(name) is not None

    def names(self) -> dict[str, TensorInfo]:
        return {
            name: replace(info, dtype=self._scheme) if self._is_coded(name) else info
            for name, info in self._plain.names().items()
        }

    def read(self, name: str) -> RawTensor:
        plain = self._plain.read(name)
        if name not in self._coded and self._is_coded(name):
            self._coded[name] = in_gguf_type(self._scheme, plain)
        return self._coded.get(name, plain)


@functools.cache
def source_of(scheme: str) -> TensorSource:
    return ArraySource(random_weights(shapes())) if scheme == "plain" else Source(scheme)


KINDS = [
    ("plain", Precision.FP32),
    ("plain", Precision.BF16),
    ("plain", Precision.FP8),
    ("Q4_K", Precision.BF16),
]


class Model:
    """A small transformer on the device, with room for some of its weights; None is room for all."""

    def __init__(self, kind: tuple[str, Precision], room_bytes: int | None, is_brief: bool = False) -> None:
        free = None if room_bytes is None else (lambda: room_bytes)
        self.backend = TorchBackend(DEVICE, free)
        self.backend.has_fp8 = True
        self.source, self.precision = source_of(kind[0]), kind[1]
        with self.backend.session():
            self.leaves = self.backend.leaves(
                self.source, self.precision, None if free is None else 0, is_brief
            )
            self.transformer = Transformer(self.backend.ops, self.leaves, CONFIG)
            self.adapters = self.backend.adapters(self.leaves, self.precision)

    def __call__(self, seed: int = 0, modulates: bool = True) -> Tensor:
        backend, draw = self.backend, np.random.default_rng(seed).standard_normal

        def given(*shape: int) -> Tensor:
            return backend.cast(backend.from_numpy(draw(shape, np.float32)), self.precision)

        pe = backend.from_numpy(rotary_table(position_ids(3, 4, 6), CONFIG.axes_dim, CONFIG.theta))
        with backend.session():
            vec, sigma = given(1, CONFIG.vec_in_dim), backend.from_numpy(np.full(1, 0.5, np.float32))
            if modulates:
                self.rows = self.transformer.modulations(vec, sigma, None)
            return self.transformer.modulated(
                given(1, 6, CONFIG.in_channels), given(1, 3, CONFIG.context_in_dim), self.rows, pe
            )

    def streamed(self) -> list[str]:
        return [name for name, leaf in self.leaves.modules.items() if is_streamed(leaf)]


def rooms(model: Model) -> list[int]:
    """Room for nothing; for some blocks; for all of them, but not for what is used once."""
    names = model.source.names()
    itemsize = model.backend._dtype(model.precision).itemsize
    is_coded = model.precision is Precision.FP8
    found: dict[int, int] = {}
    for room in range(0, 30 * 2**20, 2**16):
        _, going = divided(names, room, itemsize, lambda *layer: is_coded and lies_in_eight_bits(*layer))
        kind = sum(not bucket.is_once for bucket in going) if going else -1
        found.setdefault(kind, room)
    return [0, found[3], found[0]]


def is_streamed(leaf: Any) -> bool:
    weight = leaf.weight if isinstance(leaf, Linear) else None
    return isinstance(weight, PackedWeight) and not list(weight.buffers())


def patches() -> list[Patch]:
    rng = np.random.default_rng(5)
    rows, columns = next(s for name, s in shapes().items() if name == f"{LINEAR1}.weight")
    up, down = (rng.standard_normal(s).astype(np.float32) for s in ((rows, 2), (2, columns)))
    lengths = Magnitude(rng.uniform(1, 2, rows).astype(np.float32), Axis.ROWS)
    return [
        Patch(Component.TRANSFORMER, LINEAR1, (0, rows), columns, LowRank(up, down, 0.5, None), magnitude)
        for magnitude in (None, lengths)
    ]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[0]}-{kind[1].value}")
def test_steps_with_weights_that_come_and_go_are_the_same_to_the_bit(kind: tuple[str, Precision]) -> None:
    plain = Model(kind, None)
    wanted = [plain(seed) for seed in range(2)]
    for room in rooms(plain):
        model = Model(kind, room)
        assert model.streamed()
        assert all(torch.equal(model(seed), each) for seed, each in enumerate(wanted))
    assert not plain.streamed()


@pytest.mark.parametrize("kind", KINDS[::2], ids=lambda kind: f"{kind[0]}-{kind[1].value}")
def test_a_lora_works_on_weights_that_come_and_go_and_comes_off(kind: tuple[str, Precision]) -> None:
    plain, model = Model(kind, None), Model(kind, 0)
    before = plain()
    for patch in patches():
        for each in (plain, model):
            with each.backend.session():
                each.adapters.attach("ink", [patch], 0.7)
        assert torch.equal(model(), plain())
        assert not torch.equal(plain(), before)
        for each in (plain, model):
            each.adapters.detach("ink")
        assert torch.equal(model(), before)


def test_what_is_used_once_goes_with_the_leaves_that_used_it_and_the_rest_goes_on() -> None:
    model, plain = Model(KINDS[0], 0), Model(KINDS[0], None)
    wanted = plain(1)
    assert torch.equal(model(1), wanted)
    held = [weakref.ref(leaf.weight) for name, leaf in model.leaves.modules.items() if "mod" in name]
    model.adapters = model.leaves = None  # type: ignore[assignment]
    model.transformer.modulator = None
    assert all(each() is None for each in held)
    assert torch.equal(model(1, modulates=False), wanted)


def test_nothing_is_left_of_a_model_that_is_let_go() -> None:
    model = Model(KINDS[0], 0)
    model()
    gc.collect()
    gc.disable()
    try:
        held = weakref.ref(model.leaves.modules[LINEAR1].weight), *model.backend.graphs.streams
        stream = weakref.ref(held[1])
        weight = held[0]
        del held
        del model
        assert weight() is None
        assert stream() is None
    finally:
        gc.enable()


def test_leaves_that_are_used_out_of_order_get_their_own_weights() -> None:
    plain, model = Model(KINDS[0], None), Model(KINDS[0], 0)
    names = model.streamed()
    columns = {name: shape[1] for name, shape in shapes().items() if len(shape) == 2}
    with torch.inference_mode():
        for name in np.random.default_rng(0).permutation(names * 2):
            x = torch.ones(1, columns[f"{name}.weight"], device=DEVICE)
            assert torch.equal(model.leaves.modules[name](x), plain.leaves.modules[name](x))


def test_weights_that_stay_lie_in_one_piece_of_memory() -> None:
    """Or what loading takes for a moment would leave gaps between them."""
    some = rooms(Model(KINDS[0], None))[1]
    model = Model(KINDS[0], some)
    going = model.streamed()
    pieces = {
        leaf.get_parameter("weight").untyped_storage().data_ptr()
        for name, leaf in model.leaves.modules.items()
        if BLOCK_MATRIX.search(name) and name not in going
    }
    assert len(pieces) == 1


def test_a_model_that_is_called_once_takes_no_memory_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size_bytes: int, device: torch.device) -> HostMemory:
        raise MemoryError

    monkeypatch.setattr("backends.torch_cuda.offload.stream.HostMemory", refuse)
    plain, model = Model(KINDS[0], None), Model(KINDS[0], 0, is_brief=True)
    assert model.streamed()
    assert all(torch.equal(model(seed), plain(seed)) for seed in range(2))
    assert not model.backend.graphs.streams


def test_weights_that_are_larger_than_was_known_get_larger_slots() -> None:
    stream = Stream(torch.device("cpu"), [Bucket((name,), 1) for name in "abc"])
    make = stream.holding(lambda name, weight, bias: Linear(weight, bias))
    values = [torch.full((200, 200), float(i)) for i in range(3)]
    leaves = [make(name, torch.nn.Parameter(each), None) for name, each in zip("abc", values, strict=True)]
    for _ in range(2):
        assert [float(leaf(torch.ones(1, 200)).mean()) for leaf in leaves] == [0.0, 200.0, 400.0]


def spied(said: list[str]) -> tuple[Stream, list[Linear]]:
    """A stream of three leaves, and all that its copies are told."""

    class Spy:
        def fill(self, slots: Any) -> None: ...
        def start(self) -> None:
            said.append("start")

        def end(self) -> None:
            said.append("end")

        def begin(self, is_first: bool) -> None:
            said.append("begin at start" if is_first else "begin")

        def copy(self, load: Any, slot: Tensor, number: int) -> None:
            said.append(f"copy {load.number} to {number}")

        def wait(self, number: int) -> None:
            said.append(f"wait {number}")

    stream = Stream(torch.device("cpu"), [Bucket((name,), 16) for name in "abc"])
    stream._copies = Spy()  # type: ignore[assignment]
    make = stream.holding(lambda name, weight, bias: Linear(weight, bias))
    return stream, [make(name, torch.nn.Parameter(torch.ones(2, 2)), None) for name in "abc"]


def test_what_is_recorded_brings_its_weights_itself_and_nothing_for_a_next_time() -> None:
    said: list[str] = []
    stream, leaves = spied(said)
    x = torch.ones(1, 2)
    leaves[1](x)
    said.clear()
    stream.forget()
    with stream.recorded():
        for leaf in leaves:
            leaf(x)
    assert stream.was_recorded
    assert said == [
        "end", "start",
        "begin at start", "copy 0 to 0", "copy 1 to 1", "wait 0",
        "begin", "copy 2 to 0", "wait 1",
        "wait 0", "end",
    ]  # fmt: skip
    said.clear()
    leaves[2](x)  # as if nothing were there: the recording may have run any number of times
    assert said == ["begin", "copy 2 to 0", "copy 0 to 1", "wait 0"]
    with stream.recorded():
        pass
    assert not stream.was_recorded


def test_who_does_not_say_what_is_needed_beside_gets_all_weights_for_good() -> None:
    backend = TorchBackend(DEVICE, lambda: 0)
    leaves = backend.leaves(source_of("plain"), Precision.FP32)  # training, which keeps what it multiplied by
    Transformer(backend.ops, leaves, CONFIG)
    assert not any(map(is_streamed, leaves.modules.values()))


def test_a_machine_without_memory_for_the_weights_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 100

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    with pytest.raises(MemoryError, match="101"):
        HostMemory(101, torch.device("cpu"))


def test_a_slot_is_never_written_while_it_may_be_read() -> None:
    """Copies wait for what was computed so far, and what is computed next waits for its slot."""
    said: list[str] = []
    _, leaves = spied(said)
    for leaf in (leaves[0], leaves[0], leaves[1], leaves[2], leaves[0]):
        leaf(torch.ones(1, 2))
    assert said == [
        "begin", "copy 0 to 0", "copy 1 to 1", "wait 0",
        "begin", "copy 2 to 0", "wait 1",
        "begin", "copy 0 to 1", "wait 0",
        "begin", "copy 1 to 0", "wait 1",
    ]  # fmt: skip


@pytest.fixture
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(catalog.MODELS, MICRO.model, MICRO)
    return write_models_dir(tmp_path, MICRO)


def test_a_small_device_paints_the_same_pictures_and_says_why_it_may_be_slow(models_dir: Path) -> None:
    small = TorchEngine("cpu", (models_dir,), memory_budget_bytes=0, free_bytes=lambda: 0)
    large = TorchEngine("cpu", (models_dir,), memory_budget_bytes=0)
    for seed, prompt in enumerate(("a cat", "a dog")):
        one, other = (run(engine, seed=seed, prompt=prompt) for engine in (small, large))
        assert np.array_equal(one.pixels, other.pixels)
        assert other.result.warnings == ()
        (warning,) = one.result.warnings
        assert "transformer" in warning
        assert "copied" in warning


def test_a_job_that_is_cancelled_in_the_middle_leaves_the_next_one_alone(models_dir: Path) -> None:
    small = TorchEngine("cpu", (models_dir,), memory_budget_bytes=0, free_bytes=lambda: 0)
    steps: list[int] = []

    def listen(message: Any) -> None:
        if isinstance(message, Progress) and message.stage is Stage.DENOISING:
            steps.append(message.step or 0)

    with pytest.raises(Cancelled):
        run(small, is_cancelled=lambda: bool(steps), on_message=listen, num_steps=3)
    assert steps
    large = TorchEngine("cpu", (models_dir,), memory_budget_bytes=0)
    assert np.array_equal(run(small, seed=4).pixels, run(large, seed=4).pixels)


def test_a_job_whose_weights_nobody_can_hold_ends_as_too_little_memory(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(size_bytes: int, device: torch.device) -> HostMemory:
        raise MemoryError

    monkeypatch.setattr("backends.torch_cuda.offload.stream.HostMemory", refuse)
    engine = TorchEngine("cpu", (models_dir,), memory_budget_bytes=0, free_bytes=lambda: 0)
    with pytest.raises(OutOfMemory):
        run(engine)


@pytest.mark.skipif(DEVICE == "cpu", reason="NOT TESTED HERE: pinned memory needs a CUDA device")
@pytest.mark.parametrize("is_pinned", [True, False])
def test_a_gpu_copies_from_memory_that_could_be_pinned_and_that_could_not(
    is_pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_pinned:
        monkeypatch.setattr(host, "_pin", lambda memory: False)
    assert HostMemory(5000, torch.device("cuda")).is_pinned is is_pinned
    plain, model = Model(KINDS[1], None), Model(KINDS[1], 0)
    assert all(torch.equal(model(seed), plain(seed)) for seed in range(4))


@pytest.mark.skipif(DEVICE == "cpu", reason="NOT TESTED HERE: CUDA graphs need a CUDA device")
@pytest.mark.parametrize("is_pinned", [True, False])
def test_a_recorded_step_that_brings_its_weights_is_the_step_to_the_bit(
    is_pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_pinned:
        monkeypatch.setattr(host, "_pin", lambda memory: False)
    plain, model = Model(KINDS[1], None), Model(KINDS[1], 0)
    wanted = [plain(seed) for seed in range(6)]
    modulated = model.transformer.modulated
    monkeypatch.setattr(model.transformer, "modulated", model.backend.graphs.ready(modulated))
    assert all(torch.equal(model(seed), each) for seed, each in enumerate(wanted))
    (recording,) = model.backend.graphs._kept[model.transformer].values()
    assert (recording is not None) is is_pinned


@pytest.mark.skipif(DEVICE == "cpu", reason="NOT TESTED HERE: CUDA graphs need a CUDA device")
def test_what_comes_from_its_file_whenever_it_is_used_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, model = Model(KINDS[1], None), Model(KINDS[1], 0)
    wanted: list[Tensor] = []
    for seed in range(4):
        plain(seed)
        wanted.append(plain.rows)
    modulate = model.backend.graphs.ready_in_time(model.transformer.modulations)
    monkeypatch.setattr(model.transformer, "modulations", modulate)
    for seed in range(4):
        model(seed)
        assert torch.equal(model.rows, wanted[seed])
    assert list(model.backend.graphs._kept[model.transformer].values()) == [None]


@pytest.mark.skipif(DEVICE == "cpu", reason="NOT TESTED HERE: pinned memory needs a CUDA device")
def test_memory_that_is_refused_to_be_pinned_disturbs_nothing_after_it() -> None:
    memory = HostMemory(4096, torch.device("cuda"))
    assert not host._pin(memory.bytes)  # it is already
    assert float(torch.ones(3, device="cuda").sum()) == 3.0
