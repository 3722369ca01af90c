"""Forms of weights that are known, so that they can be refused in one sentence instead of a list of names.

Some lie in the order of one GPU kernel's registers, some need more than a table and a scale, and for
some nobody has asked; each is told by two tensors that lie beside each other.

Source: nunchaku-ai/nunchaku, AutoAWQ, optimum-quanto, bitsandbytes Linear8bitLt (names).
"""

from __future__ import annotations

from flux_core.errors import Corrupt
from flux_core.weights.tensors import TensorSource

MARKS: dict[str, tuple[str, str]] = {
    "Nunchaku's SVDQuant": (".qweight", ".wscales"),
    "AWQ or GPTQ": (".qweight", ".qzeros"),
    "optimum-quanto": (".weight._data", ".weight._scale"),
    "bitsandbytes 8-bit": (".weight", ".SCB"),
}
"""What a form is called, and the endings of two names that only it has beside each other."""
_NUNCHAKU_CLASS = "Nunchaku"


def refuse(source: TensorSource) -> None:
    """Returns None where the file is of another kind.

    Raises:
        Corrupt: It is in one of these forms.
    """
    found = source.names()
    kind = "Nunchaku's SVDQuant" if source.metadata.get("model_class", "").startswith(_NUNCHAKU_CLASS) else ""
    for title, (mark, beside) in MARKS.items():
        if any(name.endswith(beside) and f"{name.removesuffix(beside)}{mark}" in found for name in found):
            kind = kind or title
    if kind:
        raise Corrupt(
            f"The file's weights are stored as {kind}, a form that is not read here.",
            "Get the model in bfloat16, fp8, nvfp4, NF4 or GGUF.",
        )
