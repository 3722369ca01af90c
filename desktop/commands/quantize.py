"""`flowbrush models quantize`: a smaller copy of a weights file, and what that costs each layer.

The work is flux_core's; this says how far it is and prints the report.
"""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from desktop.commands import options
from desktop.commands.screen import Screen
from flux_core.errors import RequestInvalid

if TYPE_CHECKING:
    from flux_core.weights.quantize import LayerError, Report

_SHOWN = 5


class FormName(StrEnum):
    """As flux_core.weights.quant.forms.FORMS, which is too heavy to import for --help."""

    FP8 = "fp8"
    NF4 = "nf4"
    MLX4 = "mlx4"
    MLX8 = "mlx8"


def quantize(
    source: Annotated[Path, typer.Argument(help="The weights file to make a smaller copy of.")],
    to: Annotated[FormName, typer.Option("--to", help="The form of the copy.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write: .safetensors.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Store a model's large matrices in 8 or 4 bits, layer by layer, with a report of the error.

    fp8 is closest; nf4 is smallest and for CUDA; mlx4 and mlx8 are for Apple silicon. Embeddings, norms,
    biases and the layers at the model's ends stay as they are.
    """
    from flux_core.weights.open import open_source
    from flux_core.weights.quant.forms import FORMS
    from flux_core.weights.quantize import quantize as write_quantised

    screen = Screen(json)
    tensors = open_source(source)
    if output.suffix != ".safetensors":
        raise RequestInvalid(
            f"{output.name} does not end in .safetensors.", "Choose such a name for the copy."
        )
    if output.exists() and not force:
        raise RequestInvalid(f"{output} is there already.", "Choose another name, or add --force.")
    with screen.count_progress("Quantising") as advance:
        report = write_quantised(tensors, FORMS[to.value], output, advance)
    _print(screen, output, report, FORMS[to.value].title)
    screen.result(
        {
            "output": str(output),
            "scheme": report.scheme,
            "bytes": report.bytes_written,
            "layers": [asdict(layer) for layer in report.layers],
            "kept": report.kept,
        }
    )


def _print(screen: Screen, output: Path, report: Report, title: str) -> None:
    worst = sorted(report.layers, key=lambda layer: layer.relative_rms, reverse=True)[:_SHOWN]
    screen.table(
        ("LARGEST ERRORS", "SHAPE", "RELATIVE RMS", "MAXIMUM"),
        [(layer.name, _shape(layer), f"{layer.relative_rms:.2%}", f"{layer.largest:.2g}") for layer in worst],
    )
    mean = sum(layer.relative_rms for layer in report.layers) / len(report.layers)
    screen.say(
        f"{output}: {report.bytes_written / 1e6:,.0f} MB. {len(report.layers)} matrices as {title}, "
        f"relative error {mean:.2%} on average; {len(report.kept)} tensors as they were."
    )


def _shape(layer: LayerError) -> str:
    return " x ".join(map(str, layer.shape))
