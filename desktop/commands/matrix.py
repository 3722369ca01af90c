"""`flowbrush models matrix`: what is read, on which backend, and how that was proven."""

from __future__ import annotations

from desktop.commands import options
from desktop.commands.screen import Screen


def matrix(json: options.Json = False, debug: options.Debug = False) -> None:
    """Show which models, layouts and quantised forms are read, and how each was proven."""
    from flux_core.weights.formats import matrix as facts

    screen = Screen(json)
    screen.say("Models: float32 on torch and MLX within 2e-5 of the peer and 1e-5 of the float64 oracle.")
    screen.table(("MODEL", "TORCH", "MLX", "ORACLE", "PEER"), [(m, *_YES, peer) for m, peer in facts.MODELS])
    screen.say("\nLayouts of plain weights: bit for bit what a single file gives.")
    layouts = [(part, layout, *_YES[:2]) for part, table in facts.LAYOUTS.items() for layout in table]
    screen.table(("PART", "LAYOUT", "TORCH", "MLX"), layouts)
    screen.say("\nQuantised forms: kept as codes in memory, decoded where a layer computes.")
    forms = [(row.format, ", ".join(row.parts), *_YES, row.peer) for row in facts.MATRIX_ROWS]
    screen.table(("FORM", "PARTS", "TORCH", "MLX", "ORACLE", "PEER"), forms)
    screen.say("\nRefused by name:")
    screen.table(("FORM", "WHY"), list(facts.REFUSED))
    screen.result(
        {
            "models": [{"model": model, "peer": peer} for model, peer in facts.MODELS],
            "layouts": {part: list(table) for part, table in facts.LAYOUTS.items()},
            "forms": [
                {
                    "form": row.format,
                    "schemes": row.schemes,
                    "parts": row.parts,
                    "peer": row.peer,
                    "proof": row.proof,
                }
                for row in facts.MATRIX_ROWS
            ],
            "refused": [{"form": form, "why": why} for form, why in facts.REFUSED],
        }
    )


_YES = ("yes", "yes", "yes")
