"""Scratch: kernels of a step without, with rank 16, with rank 64."""
import sys, torch, time
from pathlib import Path
from collections import defaultdict
from torch.profiler import ProfilerActivity
from backends.torch_cuda.bench import sizes
from backends.torch_cuda.bench.context import Bench
from backends.torch_cuda.bench.figures import Results, sustained
from backends.torch_cuda.bench.step import walked_step
from flux_core.plan import Component
from flux_core.request import LoraUse, Precision
from flux_core.weights.lora.library import choose_loras
dev = torch.device("cuda"); wanted = sizes.FULL; sizes.put_into_catalog(wanted)
base = Path("/tmp/shared/loras-only")
bench = Bench(dev, wanted, Results(None, "x"), False, False, ("fp8",), base)
backend, model, arguments, leaves = walked_step(bench, Precision.FP8)
adapters = backend.adapters(leaves, Precision.FP8)
def kernels():
    model.modulated(*arguments); backend.evaluate()
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA], acc_events=True) as p:
        model.modulated(*arguments); backend.evaluate()
    return {e.key[:70]: (e.self_device_time_total / 1e3, e.count) for e in p.key_averages() if e.self_device_time_total > 0}
with backend.session():
    for rank in (0, 16, 64):
        if rank:
            use = LoraUse(name=bench.lora(rank)); (c,) = choose_loras((use,), wanted.spec, (base,))
            adapters.attach(use.name, c.lora.patches(Component.TRANSFORMER), 1.0)
        found = kernels()
        print(f"== rank {rank}: {sum(v for v, _ in found.values()):.1f} ms", flush=True)
        for k, (v, n) in sorted(found.items(), key=lambda kv: -kv[1][0])[:16]: print(f"  {v:7.2f} x{n:4d} {k}")
        if rank: adapters.detach(use.name)
