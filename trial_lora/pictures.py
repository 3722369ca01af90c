import sys, time, torch, tempfile
from pathlib import Path
from backends.torch_cuda.bench import loras, sizes, pictures
from backends.torch_cuda.bench.context import Bench
from backends.torch_cuda.bench.figures import Results
from backends.torch_cuda.bench.step import walked_step
from flux_core.plan import Component
from flux_core.request import LoraUse, Precision
from flux_core.weights.lora import read
from flux_core.weights.lora.library import choose_loras
small = "--tiny" in sys.argv
dev = torch.device("cpu" if small else "cuda")
wanted = sizes.SMALL if small else sizes.FULL
sizes.put_into_catalog(wanted)
base = Path(tempfile.mkdtemp()) if small else Path("/tmp/shared/model")
bench = Bench(dev, wanted, Results(None, "x"), False, False, ("fp8",), base)

def parts(engine):
    p = engine._bench.parts if hasattr(engine, "_bench") else None
    return p

for rank in wanted.lora_ranks:
    use = LoraUse(name=bench.lora(rank))
    for threads in (1, 4, 8, 16):
        read._THREADS = threads
        t = time.perf_counter(); (c,) = choose_loras((use,), wanted.spec, (base,)); t1 = time.perf_counter()
        n = sum(1 for _ in c.lora.patches(Component.TRANSFORMER)); t2 = time.perf_counter()
        print(f"rank {rank}: {threads} threads: choose {1e3*(t1-t):.0f} ms, read {1e3*(t2-t1):.0f} ms, {n} patches", flush=True)
read._THREADS = 8
if not small and not (base / wanted.spec.model / "complete").is_file():
    print("no model there"); 
    if "--write" not in sys.argv: sys.exit()
t = time.time()
painter = pictures.Painter(bench, Precision.FP8)
short = {"num_steps": 4}
print("first", painter.paint(**short), painter.stages, "after", time.time() - t, flush=True)
for i in range(2): print("plain", painter.paint(**short), painter.stages, flush=True)
for rank in wanted.lora_ranks:
    use = LoraUse(name=bench.lora(rank))
    for strength in (1.0, 1.0, 1.0, 0.5, 0.5):
        print(rank, strength, painter.paint(loras=(use.model_copy(update={"strength": strength}),), **short), painter.stages, flush=True)
for i in range(2): print("plain", painter.paint(**short), painter.stages, flush=True)
print("28 steps plain", [painter.paint() for _ in range(2)], painter.stages, flush=True)
use = LoraUse(name=bench.lora(16))
print("28 steps r16", [painter.paint(loras=(use,)) for _ in range(3)], painter.stages, flush=True)
print("28 steps plain", [painter.paint() for _ in range(2)], painter.stages, flush=True)
