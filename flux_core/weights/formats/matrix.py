"""Which models, layouts and stored forms of weights are read, and how that was proven.

The rows are facts for people; a test holds them to what the test suite really runs, so that no row can
claim a form that is not tried, and no form can be added without its row.
"""

from __future__ import annotations

from dataclasses import dataclass

from flux_core.weights.quant.schemes import SCHEMES

MODELS: tuple[tuple[str, str], ...] = (
    ("transformer, with and without guidance", "diffusers"),
    ("autoencoder", "diffusers"),
    ("T5 encoder", "transformers"),
    ("CLIP text encoder", "transformers"),
    ("CLIP vision tower", "transformers"),
    ("SigLIP vision tower", "transformers"),
    ("Redux", "diffusers"),
    ("ControlNet: InstantX, Shakker, 68 columns", "diffusers"),
    ("ControlNet: XLabs", "plain formulas"),
    ("IP-Adapter: XLabs", "plain formulas"),
    ("TAEF1", "diffusers"),
)
"""Model and peer: float32 outputs on torch and on MLX within 2e-5 of the peer, and 1e-5 of the oracle."""

LAYOUTS: dict[str, tuple[str, ...]] = {
    "transformer": (
        "bfloat16",
        "model.diffusion_model. before every name",
        "diffusion_model. before every name",
        "norms called weight",
        "whole checkpoint",
        "diffusers folder in shards",
        "diffusers folder in one file",
        "numbered shards",
        "numbered shards without an index",
        "GGUF",
        "GGUF of the architecture cow",
        "GGUF with a prefix",
    ),
    "autoencoder": (
        "bfloat16",
        "vae. before every name",
        "first_stage_model. before every name",
        "whole checkpoint",
        "diffusers folder",
    ),
    "t5": (
        "bfloat16",
        "whole checkpoint",
        "transformers folder in shards",
        "embedding under its other name",
        "embedding twice",
        "with a decoder",
        "GGUF",
    ),
    "clip": ("bfloat16", "whole checkpoint", "transformers folder", "without its prefix", "whole CLIP"),
}
"""Part -> layouts of plain weights that give, on torch and on MLX, bit for bit what a single file gives."""

_PARTS = ("transformer", "t5", "clip")
_ALL_PARTS = (*_PARTS, "autoencoder")


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """One form of weights.

    Attributes:
        format: Its name.
        schemes: What its tensors are in memory; empty where they are plain numbers.
        parts: Components that the tests run in it, each on torch, on MLX and on the NumPy oracle.
        peer: Whose numbers they are held to.
        proof: How, in one sentence.
    """

    format: str
    schemes: tuple[str, ...]
    parts: tuple[str, ...]
    peer: str
    proof: str


_EXACT = "Files written by {}; every value equal to what it reads, outputs within 1e-5 of the oracle."


def _row(name: str, schemes: tuple[str, ...], peer: str, parts: tuple[str, ...] = _PARTS) -> MatrixRow:
    return MatrixRow(name, schemes, parts, peer, _EXACT.format(peer))


MATRIX_ROWS: tuple[MatrixRow, ...] = (
    _row("fp8 e4m3", ("F8_E4M3",), "torch", _ALL_PARTS),
    _row("fp8 e5m2", ("F8_E5M2",), "torch"),
    _row("ComfyUI fp8_scaled", ("F8_E4M3_SCALED",), "torch"),
    _row("ComfyUI comfy_quant e4m3", ("F8_E4M3_SCALED",), "torch"),
    _row("ComfyUI comfy_quant e5m2", ("F8_E5M2_SCALED",), "torch"),
    _row("ComfyUI comfy_quant in the header", ("F8_E4M3_SCALED",), "torch"),
    _row("ComfyUI nvfp4", ("NVFP4",), "comfy-kitchen"),
    _row("bitsandbytes NF4", ("NF4",), "bitsandbytes"),
    _row("bitsandbytes NF4, nested", ("NF4",), "bitsandbytes"),
    _row("bitsandbytes FP4", ("FP4",), "bitsandbytes"),
    _row("bitsandbytes FP4, nested", ("FP4",), "bitsandbytes"),
    _row("bitsandbytes NF4 in a folder", ("NF4",), "bitsandbytes"),
    _row("ComfyUI comfy_quant under diffusers' names", ("F8_E4M3_SCALED",), "torch"),
    MatrixRow(
        "mflux unquantised",
        (),
        _ALL_PARTS,
        "mlx",
        "Names equal to those of mflux 0.24's modules at full size; kernels turned; outputs within 1e-5.",
    ),
    *(
        MatrixRow(
            f"mflux {width} bits",
            (f"MLX{width}_G64",),
            _ALL_PARTS if width == 8 else _PARTS,
            "mlx",
            "Quantised by MLX under mflux's names; values within the last place of mx.dequantize, "
            "outputs within 1e-5 of the oracle.",
        )
        for width in (2, 3, 4, 5, 6, 8)
    ),
    *(
        MatrixRow(
            f"GGUF {scheme}",
            (scheme,),
            _PARTS,
            "gguf",
            "Blocks equal to gguf's dequantisation to the last bit, outputs within 1e-5 of the oracle.",
        )
        for scheme in SCHEMES
        if scheme.startswith("Q")
    ),
)

REFUSED: tuple[tuple[str, str], ...] = (
    ("Nunchaku SVDQuant", "Packed in the order of one GPU kernel; told by its tensors' names."),
    ("AWQ, GPTQ, optimum-quanto, bitsandbytes 8-bit", "Told by their tensors' names."),
    ("ComfyUI mxfp8", "Told by the name in its notes."),
    ("ComfyUI int8_tensorwise and convrot", "Told by the name in its notes."),
    ("ComfyUI formats to come", "Told by the name in its notes."),
    (
        "bitsandbytes with a table of its own",
        "Refused, because its own kernels do not use that table either.",
    ),
)
"""Forms that are known and not read, each with the reason or the way it is told."""
