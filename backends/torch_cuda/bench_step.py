"""Times one step of FLUX.1 at full size, and the large products and attentions that it cannot do without.

Run with `python -m backends.torch_cuda.bench_step --help`. Weights are random (bench_full.py); a step is
timed launched one by one and, where it can be, as a captured graph, which leaves the GPU's own time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.bench_full import RandomLeaves, random_step, random_transformer
from backends.torch_cuda.eight_bit import coded, multiplied
from backends.torch_cuda.ops import TorchOps
from flux_core.catalog import TransformerConfig
from flux_core.models.modulation import DoubleModulation, Modulation
from flux_core.models.transformer import DoubleBlock, SingleBlock
from flux_core.request import Precision

FLUX = TransformerConfig()
TEXT, IMAGE = 512, 4096
DTYPE = torch.bfloat16


def milliseconds(call: Callable[[], Any], seconds: float = 0.5, warm_up: int = 3) -> float:
    """Mean time of a call on the GPU, over calls that take about `seconds` in all."""
    for _ in range(warm_up):
        call()
    once = _timed(call, 2)
    return _timed(call, max(3, min(1000, int(1000 * seconds / once))))


def graphed(call: Callable[[], Any]) -> Callable[[], None]:
    """A call as a captured graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _timed(call: Callable[[], Any], count: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / count


def products() -> list[tuple[str, int, tuple[int, int, int]]]:
    """Name, how often in a step, and rows, columns and inner size of each large product."""
    dim, inner, double, single = FLUX.hidden_size, FLUX.mlp_hidden, FLUX.depth, FLUX.depth_single
    shapes = [("qkv", 3 * dim, dim), ("proj", dim, dim), ("up", inner, dim), ("down", dim, inner)]
    found = [
        (f"{stream} {name}", double, (rows, out, into))
        for stream, rows in (("img", IMAGE), ("txt", TEXT))
        for name, out, into in shapes
    ]
    rows = IMAGE + TEXT
    return [
        *found,
        ("linear1", single, (rows, 3 * dim + inner, dim)),
        ("linear2", single, (rows, dim, dim + inner)),
    ]


def floor(attention: bool = True) -> dict[str, float]:
    """What the products and attentions of one step take by themselves, in ms."""
    totals = {"bf16": 0.0, "fp8": 0.0}
    for name, count, (rows, out, into) in products():
        x, w, b = _draw(rows, into), _draw(out, into), _draw(out)
        plain = milliseconds(lambda x=x, w=w, b=b: functional.linear(x, w, b), 0.3)
        codes, weight = coded(x), coded(w)
        eight = milliseconds(lambda c=codes, w=weight, b=b: multiplied(*c, *w, b, DTYPE), 0.3)
        tflop = 2 * rows * out * into / 1e9
        _say(
            f"  {name:10} x{count} [{rows}, {out}, {into}]: bf16 {plain:.3f} ms ({tflop / plain:.0f} TF/s),"
            f" fp8 {eight:.3f} ms ({tflop / eight:.0f})"
        )
        totals["bf16"] += count * plain
        totals["fp8"] += count * eight
    if attention:
        q = _draw(1, IMAGE + TEXT, FLUX.num_heads, 128).transpose(1, 2)
        for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
            with sdpa_kernel(backend):
                took = milliseconds(lambda: functional.scaled_dot_product_attention(q, q, q))
            _say(f"  attention by {backend.name}: {took:.3f} ms ({4 * 4608**2 * 3072 / 1e9 / took:.0f})")
            totals.setdefault("attention", took * (FLUX.depth + FLUX.depth_single))
    _say("  floor:", {key: round(value, 1) for key, value in totals.items()})
    return totals


class Blocks:
    """One double and one single block with random weights, and what they take."""

    def __init__(self, way: str) -> None:
        backend = TorchBackend("cuda")
        ops = backend.ops = _ops(way)
        leaves = RandomLeaves(backend.device, DTYPE, backend.linear_maker(_precision(way)))
        self.double = DoubleBlock(ops, leaves, "double_blocks.0", FLUX)
        self.single = SingleBlock(ops, leaves, "single_blocks.0", FLUX)
        dim = FLUX.hidden_size
        self.img, self.txt = _draw(1, IMAGE, dim), _draw(1, TEXT, dim)
        self.z = _draw(1, IMAGE + TEXT, dim)
        self.pe = torch.randn(IMAGE + TEXT, 64, 2, device="cuda")
        rows = 0.1 * _draw(1, 12, dim)
        mods = [Modulation(*(rows[:, i + j : i + j + 1] for j in range(3))) for i in range(0, 12, 3)]
        self.double_mod, self.single_mod = DoubleModulation(*mods), mods[0]

    def run_double(self) -> Any:
        return self.double(self.img, self.txt, self.double_mod, self.pe)

    def run_single(self) -> Any:
        return self.single(self.z, self.single_mod, self.pe)


def blocks(names: list[str], profiles: bool) -> dict[str, dict[str, float]]:
    """Times the two kinds of block for several ways of running them, times their counts."""
    found: dict[str, dict[str, float]] = {}
    for name in names:
        mine = Blocks(name)
        row: dict[str, float] = {}
        for kind, call, count in (
            ("double", mine.run_double, FLUX.depth),
            ("single", mine.run_single, FLUX.depth_single),
        ):
            row[f"{kind} eager"] = count * milliseconds(call)
            row[f"{kind} graph"] = count * milliseconds(graphed(call))
        row["eager"] = row["double eager"] + row["single eager"]
        row["graph"] = row["double graph"] + row["single graph"]
        _say(f"  blocks {name:10}", {key: round(value, 2) for key, value in row.items()}, flush=True)
        found[name] = row
        if profiles:
            profile(mine.run_double, f"{name} double")
            profile(mine.run_single, f"{name} single")
        del mine
        torch.cuda.empty_cache()
    return found


def step(names: list[str], profiles: bool) -> dict[str, dict[str, float]]:
    """Times whole steps of a model of full size."""
    found: dict[str, dict[str, float]] = {}
    backend = TorchBackend("cuda")
    for name in names:
        backend.ops = _ops(name)
        model, leaves = random_transformer(backend, FLUX, precision=_precision(name))
        inputs = random_step(backend, FLUX, text_tokens=TEXT)
        rows = model.modulations(inputs.vec, inputs.sigma, inputs.guidance)
        model.modulator = None
        leaves.modules.clear()
        torch.cuda.empty_cache()

        def run(model: Any = model, inputs: Any = inputs, rows: Any = rows) -> Tensor:
            return model.modulated(inputs.img, inputs.txt, rows, inputs.pe)

        torch.cuda.reset_peak_memory_stats()
        row = {"eager": milliseconds(run, 2.0), "graph": milliseconds(graphed(run), 3.0)}
        row["peak GB"] = torch.cuda.max_memory_allocated() / 1e9
        _say(f"  step {name:10}", {key: round(value, 2) for key, value in row.items()}, flush=True)
        found[name] = row
        if profiles:
            profile(run, name)
        del model, leaves, run
        torch.cuda.empty_cache()
    return found


def profile(call: Callable[[], Any], title: str, rows: int = 24) -> None:
    """Prints which kernels a call spends its time in."""
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiled:
        call()
        torch.cuda.synchronize()
    events = sorted(profiled.key_averages(), key=lambda event: -event.device_time_total)
    total = sum(event.device_time_total for event in events)
    _say(f"  profile of {title}: {total / 1000:.2f} ms of kernels")
    for event in events[:rows]:
        took = event.device_time_total
        _say(f"    {took / 1000:8.3f} ms {100 * took / total:5.1f} % x{event.count:<4} {event.key[:100]}")


def _ops(name: str) -> Any:
    if name == "plain":
        return TorchOps()
    from backends.torch_cuda import fused

    fused.SPLITS = "split" in name
    return fused.FusedOps()


def _precision(way: str) -> Precision:
    return Precision.FP8 if "fp8" in way else Precision.BF16


def _draw(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=DTYPE)


def _say(*what: object, flush: bool = True) -> None:
    print(*what, flush=flush)  # noqa: T201


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=["floor", "blocks", "step"])
    parser.add_argument(
        "--ways", default="plain,fused,split,fp8", help="comma-separated: plain, fused, split, fp8"
    )
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--json", help="file for the figures")
    asked = parser.parse_args()
    ways = asked.ways.split(",")
    figures: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    _say(figures)
    with torch.inference_mode():
        if "floor" in asked.parts:
            figures["floor"] = floor()
        if "blocks" in asked.parts:
            figures["blocks"] = blocks(ways, asked.profile)
        if "step" in asked.parts:
            figures["step"] = step(ways, asked.profile)
    if asked.json:
        with open(asked.json, "w") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
