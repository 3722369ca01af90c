import time

t0 = time.time()


def say(w):
    global t0
    n = time.time()
    print(f"{w}: {n - t0:.3f}", flush=True)
    t0 = time.time()


import torch

say("import torch")
torch.cuda.init()
say("cuda.init")
torch.zeros(1, device="cuda")
torch.cuda.synchronize()
say("context")

say("import engine")

say("triton")
a = torch.randn(512, 512, device="cuda", dtype=torch.bfloat16)
a @ a
torch.cuda.synchronize()
say("cublas")
from torch.nn import functional as F

F.scaled_dot_product_attention(
    a.view(1, 4, 128, 512)[..., :128].contiguous(), *(2 * [a.view(1, 4, 128, 512)[..., :128].contiguous()])
)
torch.cuda.synchronize()
say("sdpa")
F.conv2d(
    torch.randn(1, 128, 64, 64, device="cuda", dtype=torch.bfloat16),
    torch.randn(128, 128, 3, 3, device="cuda", dtype=torch.bfloat16),
)
torch.cuda.synchronize()
say("conv")
p = torch.empty(2**27, dtype=torch.uint8, pin_memory=True)
say("pin 128 MB")
import os
import threading
from concurrent.futures import ThreadPoolExecutor

path = "/dev/shm/fbm/bench/flux1-dev.safetensors"
if os.path.exists(path):
    fd = os.open(path, os.O_RDONLY)
    size = 8 * 2**30
    for threads in (4, 8, 16):
        for piece in (2**22, 2**23):
            bufs = [torch.empty(piece, dtype=torch.uint8, pin_memory=True).numpy() for _ in range(threads)]
            local = threading.local()
            it = iter(bufs)
            lock = threading.Lock()

            def read(at):
                if not hasattr(local, "b"):
                    with lock:
                        local.b = next(it)
                os.preadv(fd, [local.b], at)

            t = time.time()
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(read, range(0, size, piece)))
            print("read", threads, piece, f"{size / (time.time() - t) / 1e9:.1f} GB/s", flush=True)
    d = torch.empty(2**27, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    t = time.time()
    for _ in range(20):
        d.copy_(p, non_blocking=True)
    torch.cuda.synchronize()
    print("h2d", 20 * 2**27 / (time.time() - t) / 1e9)
    from pathlib import Path

    from backends.torch_cuda.backend import TorchBackend
    from backends.torch_cuda.bench import sizes
    from flux_core.request import Precision
    from flux_core.weights import components

    sizes.put_into_catalog(sizes.FULL)
    b = TorchBackend("cuda")
    for turn in range(2):
        for f in (components.load_t5, components.load_transformer, components.load_decoder):
            t = time.time()
            with b.session():
                m = f(sizes.FULL.spec, Path("/dev/shm/fbm/bench"), b, Precision.BF16)
            torch.cuda.synchronize()
            print(f.__name__, time.time() - t, flush=True)
            del m
    import cProfile
    import pstats

    pr = cProfile.Profile()
    pr.enable()
    with b.session():
        m = components.load_transformer(sizes.FULL.spec, Path("/dev/shm/fbm/bench"), b, Precision.BF16)
    torch.cuda.synchronize()
    pr.disable()
    pstats.Stats(pr).sort_stats("tottime").print_stats(18)
