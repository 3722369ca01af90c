"""What fp8 and bfloat16 do to pictures of the bundled family, and which kinds of matrices cost how much.

Its matrices lie in e4m3 codes already, so eight bits cost it what inputs lose; what weights lose beside that
is in `quality`, where both are random.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backends.torch_cuda.bench.context import Bench
from backends.torch_cuda.bench.figures import Figure
from backends.torch_cuda.bench.quality import tell_model
from backends.torch_cuda.bench.studio import MODELS_DIR, Pixels, Studio, psnr_db
from flux_core.catalog import TINY, locate
from flux_core.request import Precision
from flux_core.weights.open import open_source

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


def family(bench: Bench) -> None:
    """Every member in fp8 and bfloat16 beside float32, then fp8 without one kind after another."""
    spec, folder = locate(TINY, (MODELS_DIR,))
    side = bench.sizes.family_px // 8
    tell_model(bench, "family", spec, open_source(Path(folder) / spec.files.transformer), side)
    studio = Studio(bench.device, bench.sizes)
    exact = {member: studio.painted(member, precision=Precision.FP32) for member in MEMBERS}
    for precision in (Precision.BF16, Precision.FP8):
        for member, pictures in exact.items():
            found = studio.painted(member, precision=precision)
            _tell(bench, f"{member}, {precision.value}", pictures, found)
    for kind, names in KINDS.items():
        some = Studio(bench.device, bench.sizes, names)
        _tell(
            bench, f"dev, fp8 but {kind}", exact["dev"], some.generated(model="tiny", precision=Precision.FP8)
        )


def _tell(bench: Bench, what: str, exact: Sequence[Pixels], found: Sequence[Pixels]) -> None:
    decibels = [psnr_db(a, b) for a, b in zip(exact, found, strict=True)]
    bench.results.add(
        Figure("family", f"{what}: PSNR", "dB", float(np.mean(decibels)),
               note=f"against fp32, worst {min(decibels):.1f}")
    )  # fmt: skip
