"""Files that Nunchaku wrote (SVDQuant) are known, so that they can be refused in one sentence.

Their weights lie in the order of one GPU kernel's registers, with a low-rank part, smoothing factors and
shifted modulations that only that kernel puts together again.

Source: nunchaku-ai/nunchaku (names).
"""

from __future__ import annotations

from flux_core.errors import Corrupt
from flux_core.weights.tensors import TensorSource


def refuse(source: TensorSource) -> None:
    """Returns None where the file is of another kind.

    Raises:
        Corrupt: It is an SVDQuant file.
    """
    found = source.names()
    is_packed = any(
        name.endswith(".qweight") and f"{name.removesuffix('.qweight')}.wscales" in found for name in found
    )
    if is_packed or source.metadata.get("model_class", "").startswith("Nunchaku"):
        raise Corrupt(
            "The file is in Nunchaku's SVDQuant form, which only Nunchaku's own GPU kernels can read.",
            "Get the model in bfloat16, fp8, nvfp4, NF4 or GGUF.",
        )
