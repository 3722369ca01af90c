import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.bench import sizes
from backends.torch_cuda.bench.figures import timed
from backends.torch_cuda.bench.weights import RandomSource, model_shapes
from backends.torch_cuda.kernels.image_norm import group_norm_silu
from backends.torch_cuda.kernels.wide_attention import wide_attention
from backends.torch_cuda.ops import TorchOps
from flux_core.models.autoencoder import Decoder
from flux_core.models.t5 import T5Encoder, relative_buckets
from flux_core.request import Precision

d = torch.device("cuda")
spec = sizes.FULL.spec
for c, s in ((512, 128), (512, 256), (256, 1024), (128, 1024)):
    x = torch.randn(1, s, s, c, device=d, dtype=torch.bfloat16)
    w = torch.rand(c, device=d, dtype=torch.bfloat16)
    b = torch.randn(c, device=d, dtype=torch.bfloat16)
    ref = F.silu(F.group_norm(x.float().permute(0, 3, 1, 2), 32, w.float(), b.float(), 1e-6)).permute(
        0, 2, 3, 1
    )
    y = group_norm_silu(x, w, b, 32, 1e-6)
    plain = lambda: F.silu(F.group_norm(x.permute(0, 3, 1, 2), 32, w, b, 1e-6).permute(0, 2, 3, 1))
    print(
        "gn",
        c,
        s,
        "err",
        (y - ref).abs().max().item(),
        "ms",
        1e3 * timed(d, lambda: group_norm_silu(x, w, b, 32, 1e-6)),
        "plain",
        1e3 * timed(d, plain),
        "GB/s",
        3 * x.numel() * 2 / timed(d, lambda: group_norm_silu(x, w, b, 32, 1e-6)) / 1e9,
    )
q, k, v = (torch.randn(1, 1, 16384, 512, device=d, dtype=torch.bfloat16) * 0.3 for _ in range(3))
print(
    "wide",
    1e3 * timed(d, lambda: wide_attention(q, k, v, 512**-0.5)),
    "sdpa",
    1e3 * timed(d, lambda: F.scaled_dot_product_attention(q, k, v, scale=512**-0.5)),
)
backend = TorchBackend("cuda")


def prof(call, name):
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as p:
        call()
        torch.cuda.synchronize()
    print(name)
    print(
        p.key_averages().table(sort_by="self_cuda_time_total", row_limit=18, max_name_column_width=60)[:7000]
    )


with backend.session():
    src = RandomSource(model_shapes(spec)[spec.files.autoencoder])
    lat = torch.randn(1, 128, 128, 16, device=d, dtype=torch.bfloat16)
    for bm in (False, True):
        torch.backends.cudnn.benchmark = bm
        for ops in (TorchOps(), backend.ops):
            dec = Decoder(ops, backend.leaves(src, Precision.BF16), spec.autoencoder)
            torch.cuda.reset_peak_memory_stats()
            t = timed(d, lambda: dec(lat), 5)
            print(
                "vae",
                type(ops).__name__,
                "benchmark",
                bm,
                1e3 * t,
                "ms, peak GB",
                torch.cuda.max_memory_allocated() / 1e9,
            )
    torch.backends.cudnn.benchmark = False
    prof(lambda: dec(lat), "vae")
    a = Decoder(TorchOps(), backend.leaves(src, Precision.BF16), spec.autoencoder)(lat).float()
    b_ = dec(lat).float()
    print("vae diff", (a - b_).abs().max().item(), a.abs().max().item())
    src = RandomSource(model_shapes(spec)[spec.files.t5])
    t5 = T5Encoder(backend.ops, backend.leaves(src, Precision.BF16), spec.t5)
    ids = torch.randint(3, 30000, (1, 512), device=d)
    bu = backend.from_numpy(relative_buckets(512, spec.t5))
    print("t5", 1e3 * timed(d, lambda: t5(ids, bu)), "graph", end=" ")
    g = backend.graphs.ready(t5.__call__)
    print(1e3 * timed(d, lambda: g(ids, bu)))
    prof(lambda: t5(ids, bu), "t5")
