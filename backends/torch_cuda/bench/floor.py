"""What the library kernels need for FLUX.1's shapes: a step cannot be quicker without better ones.

The products of a step (the text's and the image's share of a double block's four, a single block's two) and
its attention are each queued behind themselves, so that the device is as warm as in a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from backends.torch_cuda.backend import attends_in_eight_bits
from backends.torch_cuda.bench.context import Bench
from backends.torch_cuda.bench.figures import Figure, sustained
from backends.torch_cuda.codes import coded

_REPEATS = 20


@dataclass(frozen=True, slots=True)
class Gemm:
    """[rows, inner] times [columns, inner] transposed, `count` times a step."""

    name: str
    rows: int
    columns: int
    inner: int
    count: int

    @property
    def flop(self) -> float:
        return 2.0 * self.rows * self.columns * self.inner


def floor(bench: Bench) -> None:
    """Measures GEMMs in each precision and attention, and adds them up to a step."""
    attention_s = _attention(bench, bench.sizes.img_tokens)
    _attention(bench, 2 * bench.sizes.img_tokens)  # an edit's, with one reference
    for precision in ("bf16", "fp8"):
        try:
            seconds = sum(_gemm(bench, gemm, precision) * gemm.count for gemm in gemms(bench))
        except RuntimeError as err:
            reason = str(err).splitlines()[0]
            bench.results.add(
                Figure("floor", f"step, {precision}", "ms", None, note=f"not on this device: {reason}")
            )
            continue
        bench.floor_s[precision] = seconds + attention_s
        note = f"GEMMs {seconds * 1e3:.1f} ms, attention {attention_s * 1e3:.1f} ms"
        bench.results.add(
            Figure("floor", f"step, {precision}", "ms", 1e3 * bench.floor_s[precision], note=note)
        )


def gemms(bench: Bench) -> list[Gemm]:
    """Those of one step, without modulation and what stands before and after the blocks."""
    config, sizes = bench.sizes.spec.transformer, bench.sizes
    dim, mlp = config.hidden_size, config.mlp_hidden
    both = sizes.img_tokens + sizes.txt_tokens
    found = [
        Gemm(f"double {name}, {stream}", rows, columns, inner, config.depth)
        for stream, rows in (("image", sizes.img_tokens), ("text", sizes.txt_tokens))
        for name, columns, inner in (
            ("qkv", 3 * dim, dim),
            ("proj", dim, dim),
            ("mlp up", mlp, dim),
            ("mlp down", dim, mlp),
        )
    ]
    return [
        *found,
        Gemm("single linear1", both, 3 * dim + mlp, dim, config.depth_single),
        Gemm("single linear2", both, dim, dim + mlp, config.depth_single),
    ]


def _gemm(bench: Bench, gemm: Gemm, precision: str) -> float:
    """Seconds of one."""
    x = torch.randn(gemm.rows, gemm.inner, device=bench.device, dtype=torch.bfloat16)
    weight = torch.randn(gemm.columns, gemm.inner, device=bench.device, dtype=torch.bfloat16)
    call = _scaled(x, weight) if precision == "fp8" else (lambda: functional.linear(x, weight))
    seconds = sustained(bench.device, call, _REPEATS)
    rate = gemm.flop / seconds / 1e12
    bench.results.add(
        Figure("floor", f"{gemm.name} {gemm.rows}x{gemm.columns}x{gemm.inner}, {precision}", "TFLOP/s", rate)
    )
    return seconds


def _scaled(x: torch.Tensor, weight: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Row-wise fp8, quantised beforehand."""
    (codes, scale), (weight_codes, weight_scale) = coded(x), coded(weight)

    def call() -> torch.Tensor:
        return torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage] # it has no public name
            codes, weight_codes.t(), scale, weight_scale.t(), out_dtype=torch.bfloat16, use_fast_accum=True
        )

    return call


def _attention(bench: Bench, img_tokens: int) -> float:
    """Seconds of all attention of a step with so many tokens, by the fastest kernel there is."""
    config, sizes = bench.sizes.spec.transformer, bench.sizes
    length = img_tokens + sizes.txt_tokens
    head_dim = config.hidden_size // config.num_heads
    shape = 1, config.num_heads, length, head_dim
    q, k, v = (torch.randn(shape, device=bench.device, dtype=bench.dtype) for _ in range(3))
    found: list[float] = []
    for kernel in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        if found and kernel is SDPBackend.MATH:
            break
        try:
            with sdpa_kernel([kernel]):
                seconds = sustained(
                    bench.device, lambda: functional.scaled_dot_product_attention(q, k, v), _REPEATS
                )
        except RuntimeError:
            continue  # not on this device
        found.append(seconds)
        _add_attention(bench, shape, kernel.name.removesuffix("_ATTENTION").lower(), seconds)
    if attends_in_eight_bits(bench.device) and head_dim == 128:
        _add_attention(bench, shape, "ours in eight bits", _coded_attention(bench, shape))
    return min(found) * (config.depth + config.depth_single)


def _add_attention(bench: Bench, shape: tuple[int, ...], name: str, seconds: float) -> None:
    """The rate of one attention of [B, H, L, D]."""
    rate = 4.0 * shape[0] * shape[1] * shape[2] ** 2 * shape[3] / seconds / 1e12
    what = f"attention {'x'.join(str(side) for side in shape)}, {name}"
    bench.results.add(Figure("floor", what, "TFLOP/s", rate))


def _coded_attention(bench: Bench, shape: tuple[int, int, int, int]) -> float:
    """Seconds of one of ours in eight bits, of heads that are codes already."""
    from backends.torch_cuda.kernels.coded_attention import coded_attention  # imports triton
    from backends.torch_cuda.kernels.coded_heads import coded_heads
    from backends.torch_cuda.kernels.heads import Projected

    batch, heads, length, dim = shape
    qkv = torch.randn((batch, length, 3 * heads * dim), device=bench.device, dtype=bench.dtype)
    gain = torch.ones(dim, device=bench.device, dtype=bench.dtype)
    turned = torch.rand((length, dim // 2, 2), device=bench.device)
    coded = coded_heads([Projected(qkv, gain, gain, 1e-6)], heads, turned, dim**-0.5)
    return sustained(bench.device, lambda: coded_attention(coded), _REPEATS)
