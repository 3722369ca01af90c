"""What fp8 and bfloat16 do to pictures of the bundled family, and which kinds of matrices cost how much.

Kinds are told apart by the velocities of a walk's own states, because one picture that turns out otherwise
weighs more in a mean of decibels than all kinds of matrices.

Its matrices lie in e4m3 codes already, so eight bits cost it what inputs lose; what weights lose beside that
is in `quality`, where both are random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backends.torch_cuda.bench.context import Bench
from backends.torch_cuda.bench.figures import Figure
from backends.torch_cuda.bench.quality import error, tell_model
from backends.torch_cuda.bench.studio import MODELS_DIR, Choosing, Pixels, Studio, psnr_db
from flux_core.catalog import TINY, ModelSpec, locate
from flux_core.models.transformer import Transformer
from flux_core.request import Precision
from flux_core.weights.open import open_source
from flux_core.weights.tensors import TensorSource

MEMBERS = ("dev", "schnell", "kontext", "fill")
KINDS = {
    "qkv": r"attn\.qkv",
    "proj": r"attn\.proj",
    "mlp up": r"mlp\.0",
    "mlp down": r"mlp\.2",
    "linear1": r"linear1",
    "linear2": r"linear2",
    "text stream": r"txt_(?:attn|mlp)",
    "image stream": r"img_(?:attn|mlp)",
    "first double block": r"double_blocks\.0\.",
    "last single block": rf"single_blocks\.{TINY.transformer.depth_single - 1}\.",
}
"""Kind -> the names of its matrices."""
_EVERY = 5  # which states of walks are enough


def family(bench: Bench) -> None:
    """A step beside the peer's; every member in fp8 and bfloat16 beside float32; fp8 by kinds of matrices."""
    spec, folder = locate(TINY, (MODELS_DIR,))
    source = open_source(Path(folder) / spec.files.transformer)
    tell_model(bench, "family", spec, source, bench.sizes.family_px // 8)
    studio = Studio(bench.device, bench.sizes)
    exact = {member: studio.painted(member, precision=Precision.FP32) for member in MEMBERS}
    for precision in (Precision.BF16, Precision.FP8):
        for member, pictures in exact.items():
            found = studio.painted(member, precision=precision)
            _tell(bench, f"{member}, {precision.value}", pictures, found)
    _tell_kinds(bench, spec, source)


def _tell_kinds(bench: Bench, spec: ModelSpec, source: TensorSource) -> None:
    """What fp8 does to velocities: everywhere, everywhere but in one kind of matrices, in that kind alone."""
    states: list[Any] = []

    def kept(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            states.append(args)
            return method(*args, **kwargs)

        return call

    Studio(bench.device, bench.sizes, ready=kept).painted("dev", precision=Precision.FP32)

    def velocities(precision: Precision, plain: str | None = None) -> Tensor:
        """Of every fifth state [N, L, C], with some matrices left as they are."""
        backend = Choosing(str(bench.device), plain)
        with backend.session():
            model = Transformer(backend.ops, backend.leaves(source, precision), spec.transformer)
            found: list[Tensor] = []
            for img, txt, rows, pe in states[::_EVERY]:
                img, txt, rows = (backend.cast(each, precision) for each in (img, txt, rows))
                found.append(model.modulated(img, txt, rows, pe).float())
            return torch.cat(found)

    exact = velocities(Precision.FP32)
    whole = 100 * error(velocities(Precision.FP8), exact)
    bench.results.add(Figure("family", "velocity, fp8", "%", whole, note="against fp32, over walks"))
    for kind, names in KINDS.items():
        but = 100 * error(velocities(Precision.FP8, names), exact)
        only = 100 * error(velocities(Precision.FP8, rf"^(?!.*(?:{names}))"), exact)
        bench.results.add(
            Figure("family", f"velocity, fp8 but {kind}", "%", but, note=f"that kind alone: {only:.2f} %")
        )


def _tell(bench: Bench, what: str, exact: Sequence[Pixels], found: Sequence[Pixels]) -> None:
    decibels = [psnr_db(a, b) for a, b in zip(exact, found, strict=True)]
    bench.results.add(
        Figure("family", f"{what}: PSNR", "dB", float(np.mean(decibels)),
               note=f"against fp32, worst {min(decibels):.1f}")
    )  # fmt: skip
