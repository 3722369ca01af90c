import sys, tempfile, time, torch
from pathlib import Path
from backends.torch_cuda.bench import loras, sizes
from backends.torch_cuda.bench.context import Bench
from backends.torch_cuda.bench.figures import Results, machine
from backends.torch_cuda.bench.step import walked_step
from flux_core.request import Precision
small = "--tiny" in sys.argv
dev = torch.device("cpu" if small else "cuda")
wanted = sizes.SMALL if small else sizes.FULL
sizes.put_into_catalog(wanted)
base = Path("/tmp/shared/loras-only"); 
if small: base = Path(tempfile.mkdtemp())
bench = Bench(dev, wanted, Results(None, "x"), False, False, ("fp8",), base)
t = time.time()
loras._steps(bench, Precision.FP8)
print("took", time.time() - t)
