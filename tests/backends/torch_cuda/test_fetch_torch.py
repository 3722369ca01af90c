"""Torch weights come from the file exactly, in every dtype, in aligned memory of their own."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from backends.torch_cuda import fetch
from backends.torch_cuda.backend import DTYPE_OF_NAME, TorchBackend
from backends.torch_cuda.bench_load import LOADERS, Case, measure, write
from backends.torch_cuda.fetch import Ahead, TorchFetcher
from flux_core.catalog import TransformerConfig
from flux_core.errors import Corrupt
from flux_core.request import Precision
from flux_core.weights.fetch import Fetcher
from flux_core.weights.safetensors_file import SafetensorsFile

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


def test_every_plain_dtype_is_covered() -> None:
    assert DTYPES == DTYPE_OF_NAME


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (5, 7), (1200, 1000)])
def test_a_tensor_arrives_as_torch_itself_would_cast_it(
    tmp_path: Path, shape: tuple[int, ...], stored: str, dtype: torch.dtype, device: str
) -> None:
    x = torch.randn(shape, dtype=torch.float64).to(DTYPES[stored])
    save_file({"odd": torch.zeros(3, dtype=torch.uint8), "x": x}, tmp_path / "w")
    raw = SafetensorsFile(tmp_path / "w").read("x")
    found = TorchFetcher(torch.device(device), num_threads=2).plain(raw, DTYPES[stored], dtype)
    assert found.dtype == dtype
    assert found.device.type == device
    assert torch.equal(found.cpu(), x.to(dtype))


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_the_way_to_a_gpu_keeps_pieces_in_order(
    tmp_path: Path, stored: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ring, on whatever device there is, with pieces so small that it goes round many times."""
    monkeypatch.setattr(fetch, "_PIECE_BYTES", 1024)
    tensors = {f"x{i}": torch.randn(size).to(stored) for i, size in enumerate((1, 511, 5000, 256, 20_001))}
    save_file(tensors, tmp_path / "w")
    fetcher = TorchFetcher(torch.device(DEVICES[-1]), num_threads=2)
    source = SafetensorsFile(tmp_path / "w")
    for name, x in tensors.items():
        flat = torch.empty(x.shape, device=DEVICES[-1])
        fetcher._send(source.read(name), stored, flat)
        assert torch.equal(flat.cpu(), x.float())


@pytest.mark.parametrize("asked", ["abcdef", "acbfed", "fab", "aab", "abcfdeabc"])
def test_what_is_read_ahead_is_what_is_asked_for_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setattr(fetch, "_PIECE_BYTES", 256)
    sizes = {"a": 100, "b": 3000, "c": 0, "d": 64, "e": 65, "f": 2000}
    tensors = {name: torch.randn(size) for name, size in sizes.items()}
    save_file(tensors, tmp_path / "w")
    source = Ahead(SafetensorsFile(tmp_path / "w"))
    fetcher = TorchFetcher(torch.device(DEVICES[-1]), num_threads=2, after=source.after)
    for name in asked:
        flat = torch.empty(sizes[name], device=DEVICES[-1])
        fetcher._send(source.read(name), torch.float32, flat)
        assert torch.equal(flat.cpu(), tensors[name])


def test_a_tensor_that_comes_next_is_read_once(tmp_path: Path) -> None:
    save_file({name: torch.randn(300) for name in "abc"}, tmp_path / "w")
    source = Ahead(SafetensorsFile(tmp_path / "w"))
    fetcher = TorchFetcher(torch.device(DEVICES[-1]), num_threads=2, after=source.after)
    started: list[int] = []
    start = fetcher._fetcher.start
    fetcher._fetcher.start = lambda data, out: (started.append(data.size), start(data, out))[1]
    for name in "abc":
        fetcher._send(source.read(name), torch.float32, torch.empty(300, device=DEVICES[-1]))
    assert started == [1200] * 3


class FirstFails(Fetcher):
    """Reads of which the first fails, and the others are under way at that moment."""

    def __init__(self) -> None:
        super().__init__(num_threads=2)
        self.first_failed = threading.Event()
        self.second_runs = threading.Event()
        self.started: list[Future[None]] = []

    def start(self, data: np.ndarray, out: np.ndarray) -> Future[None]:
        self.started.append(self._pool.submit(self._read, len(self.started), data, out))
        return self.started[-1]

    def _read(self, number: int, data: np.ndarray, out: np.ndarray) -> None:
        if number == 0:
            assert self.second_runs.wait(10)
            threading.Timer(0.05, self.first_failed.set).start()
            raise Corrupt("It became shorter.", "Try again.")
        self.second_runs.set()
        assert self.first_failed.wait(10)
        np.copyto(out, data)


def test_a_read_that_fails_leaves_no_other_read_writing_into_the_ring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_PIECE_BYTES", 1024)
    save_file({"x": torch.randn(5000)}, tmp_path / "w")
    fetcher = TorchFetcher(torch.device(DEVICES[-1]), num_threads=2)
    fetcher._fetcher = reads = FirstFails()
    with pytest.raises(Corrupt, match="became shorter"):
        fetcher._send(SafetensorsFile(tmp_path / "w").read("x"), torch.float32, torch.empty(5000))
    assert len(reads.started) > 1
    assert all(read.done() for read in reads.started)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_weights_lie_in_aligned_memory_that_is_theirs_alone(
    tmp_path: Path, precision: Precision, stored: torch.dtype
) -> None:
    for shift in range(1, 4):  # the header's length moves the tensors of the file
        path = tmp_path / f"{shift}"
        x = torch.randn(30, 50).to(stored)
        save_file({"layer.weight": x}, path, metadata={"pad": "x" * shift})
        leaf = (
            TorchBackend("cpu").leaves(SafetensorsFile(path), precision).linear("layer", 50, 30, bias=False)
        )
        assert leaf.weight.data_ptr() % 64 == 0
        leaf.weight.zero_()
        assert SafetensorsFile(path).read("layer.weight").to_numpy().any()


SMALL = TransformerConfig(
    hidden_size=64, num_heads=2, depth=2, depth_single=2, mlp_hidden=256, context_in_dim=24, vec_in_dim=24,
    axes_dim=(8, 12, 12),
)  # fmt: skip


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_the_benchmark_loads_the_same_tensors_with_every_loader(tmp_path: Path, precision: Precision) -> None:
    weight_bytes = write(tmp_path, SMALL)
    sums = {}
    for name, loader in LOADERS.items():
        case = Case(tmp_path, SMALL, "cpu", precision)
        found = measure(name, case)
        factor = 1 if precision is Precision.BF16 else 2
        assert found.weight_bytes == factor * weight_bytes
        assert 0 < found.returned_s <= found.ready_s
        sums[name] = sum(float(tensor.detach().double().sum()) for tensor in loader.load(case))
    assert max(sums.values()) - min(sums.values()) < 1e-6 * abs(sums["flowbrush"]) + 1e-6
