"""How long it takes to load a transformer, beside the two libraries that everybody uses for it.

`write` makes a random FLUX-shaped checkpoint as a single file and as a diffusers folder of the same
tensors; `measure` loads one of them in this process and says how long that took and what it cost. A
process measures once, so that nothing is warm but the disk. Maps are lazy, so besides the moment when a
loader returns there is the moment when every weight has been read once, which is what a picture waits for.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.bench.peer import transformer_numbers
from flux_core.catalog import TransformerConfig
from flux_core.models.transformer import Transformer
from flux_core.request import Precision
from flux_core.weights.diffusers_keys import from_diffusers, transformer_recipes
from flux_core.weights.expected import check_strict, expected_shapes
from flux_core.weights.open import open_source
from flux_core.weights.tensors import TensorSource, cut_rows, swapped_halves

SINGLE = "transformer.safetensors"
FOLDER = "transformer"
_SEED_VALUES = 2**24


@dataclass(frozen=True, slots=True)
class Case:
    """What to load, where to, and in which precision.

    Attributes:
        device: "cpu" or "cuda".
    """

    folder: Path
    config: TransformerConfig
    device: str
    precision: Precision

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision is Precision.BF16 else torch.float32


@dataclass(frozen=True, slots=True)
class Load:
    """What one load cost.

    Attributes:
        returned_s: Until the loader came back.
        ready_s: Until every weight had been read once as well.
        peak_bytes: Resident memory at its highest, above what the process had before; pages of a mapped
            file count while they are in use.
        left_bytes: The same when all was done.
        weight_bytes: What was loaded.
    """

    returned_s: float
    ready_s: float
    peak_bytes: int
    left_bytes: int
    weight_bytes: int


def write(folder: Path, config: TransformerConfig, seed: int = 0) -> int:
    """Writes the checkpoint in both layouts, in bfloat16; bytes of the weights.

    Never holds more than one tensor, so a file may be larger than the memory that is free.
    """
    shapes = expected_shapes(lambda ops, make: Transformer(ops, make, config))
    values = np.random.default_rng(seed).standard_normal(_SEED_VALUES, np.float32) * np.float32(0.02)
    pool = (values.view(np.uint32) >> 16).astype(np.uint16)  # bfloat16, rounded towards zero
    _write_file(folder / SINGLE, shapes, ((np.resize(pool, prod(s)).view(np.uint8)) for s in shapes.values()))
    (folder / FOLDER).mkdir()
    source = open_source(folder / SINGLE)
    pieces = dict(_diffusers_pieces(source, config))
    _write_file(
        folder / FOLDER / "diffusion_pytorch_model.safetensors",
        {name: shape for name, (shape, _) in pieces.items()},
        (read() for _, read in pieces.values()),
    )
    (folder / FOLDER / "config.json").write_text(json.dumps(_diffusers_config(config)))
    return 2 * sum(map(prod, shapes.values()))


def measure(what: str, case: Case) -> Load:
    """Loads once, with one of LOADERS."""
    loader = LOADERS[what]
    loader.prepare()
    torch.zeros(1, device=case.device)  # a device that has to wake up does so now
    process = psutil.Process()
    _forget_peak()
    before = process.memory_info().rss
    started = time.perf_counter()
    tensors = list(loader.load(case))
    returned = time.perf_counter()
    weight_bytes = sum(_read_once(tensor) for tensor in tensors)
    if case.device == "cuda":
        torch.cuda.synchronize()
    ready = time.perf_counter()
    return Load(
        returned_s=returned - started,
        ready_s=ready - started,
        peak_bytes=_peak_bytes() - before,
        left_bytes=process.memory_info().rss - before,
        weight_bytes=weight_bytes,
    )


class _Ours:
    """A TorchBackend, as the engine loads: checked strictly, then leaf by leaf."""

    def __init__(self, layout: str) -> None:
        self.layout = layout

    def prepare(self) -> None:
        pass

    def load(self, case: Case) -> Iterable[torch.Tensor]:
        def build(ops: Any, make: Any) -> Transformer:
            return Transformer(ops, make, case.config)

        path = case.folder / self.layout
        source = from_diffusers(open_source(path), transformer_recipes(case.config))
        check_strict(expected_shapes(build), source.names(), path)
        backend = TorchBackend(case.device)
        leaves = backend.leaves(source, case.precision)
        build(backend.ops, leaves)
        return (parameter for leaf in leaves.modules.values() for parameter in leaf.parameters())


class _Safetensors:
    """safetensors' load_file, then to the dtype and the device."""

    def prepare(self) -> None:
        import safetensors.torch  # noqa: F401

    def load(self, case: Case) -> Iterable[torch.Tensor]:
        from safetensors.torch import load_file

        found = load_file(case.folder / SINGLE)
        return [found.pop(name).to(case.device, case.dtype) for name in list(found)]


class _Diffusers:
    """diffusers' from_pretrained in the dtype, then to the device."""

    def prepare(self) -> None:
        from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel  # noqa: F401

    def load(self, case: Case) -> Iterable[torch.Tensor]:
        from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

        model: Any = FluxTransformer2DModel.from_pretrained(case.folder / FOLDER, torch_dtype=case.dtype)
        return model.to(case.device).parameters()


LOADERS: dict[str, _Ours | _Safetensors | _Diffusers] = {
    "flowbrush": _Ours(SINGLE),
    "flowbrush, diffusers folder": _Ours(FOLDER),
    "safetensors load_file": _Safetensors(),
    "diffusers from_pretrained": _Diffusers(),
}


def _read_once(tensor: torch.Tensor) -> int:
    """Reads every byte, as the first use of a weight does; how many there are."""
    flat = tensor.detach().reshape(-1).view(torch.uint8)
    words = flat[: flat.numel() // 8 * 8]
    if words.data_ptr() % 8 == 0:
        words.view(torch.int64).sum()
    else:
        words.view(torch.int16).sum() if words.data_ptr() % 2 == 0 else words.sum()
    return flat.numel()


def _forget_peak() -> None:
    """Linux: the highest resident size is counted anew from here."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_bytes() -> int:
    """Highest resident size; where the system does not tell, the present one."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return psutil.Process().memory_info().rss
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def _write_file(
    path: Path, shapes: Mapping[str, tuple[int, ...]], contents: Iterable[NDArray[np.uint8]]
) -> None:
    entries: dict[str, Any] = {}
    at = 0
    for name, shape in shapes.items():
        end = at + 2 * prod(shape)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for content in contents:
            file.write(content.data)


Piece = tuple[tuple[int, ...], Callable[[], NDArray[np.uint8]]]


def _diffusers_pieces(source: TensorSource, config: TransformerConfig) -> Iterator[tuple[str, Piece]]:
    """Every tensor by diffusers' name: its shape and how to get its bytes."""
    rows = [config.hidden_size] * 3 + [config.mlp_hidden]
    infos = source.names()

    def piece(name: str, start: int, stop: int, is_swapped: bool) -> Callable[[], NDArray[np.uint8]]:
        def read() -> NDArray[np.uint8]:
            raw = cut_rows(source.read(name), start, stop)
            return (swapped_halves(raw) if is_swapped else raw).data

        return read

    for name, recipe in transformer_recipes(config).items():
        start = 0
        for number, part in enumerate(recipe.parts):
            stop = start + rows[number] if len(recipe.parts) > 1 else infos[name].shape[0]
            shape = (stop - start, *infos[name].shape[1:])
            yield part, (shape, piece(name, start, stop, recipe.is_swapped))
            start = stop


def _diffusers_config(config: TransformerConfig) -> dict[str, Any]:
    return {"_class_name": "FluxTransformer2DModel", "patch_size": 1, **transformer_numbers(config)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the loading of a transformer.")
    parser.add_argument("what", choices=["write", *LOADERS])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--depth", type=int, default=2, help="double blocks; 340 M parameters each")
    parser.add_argument("--depth-single", type=int, default=5, help="single blocks; 142 M parameters each")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    options = parser.parse_args()
    config = TransformerConfig(depth=options.depth, depth_single=options.depth_single)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = Precision(options.precision)
    if precision is Precision.AUTO:
        precision = Precision.BF16 if device == "cuda" else Precision.FP32
    if options.what == "write":
        found: dict[str, Any] = {"weight_bytes": write(options.folder, config)}
    else:
        found = asdict(measure(options.what, Case(options.folder, config, device, precision)))
    found |= {"device": device, "precision": precision.value}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
