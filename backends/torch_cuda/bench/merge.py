"""Puts the results of several runs together: `python -m backends.torch_cuda.bench.merge FOLDER FIGURES...`.

A machine is seldom free for as long as all pieces take, so each piece is a run, and this makes the dated
table of them. Runs must come from one kind of machine with one torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from backends.torch_cuda.bench import plot

COLUMNS = ("piece", "what", "ours", "peer", "ratio", "floor (its share)", "asked for", "note")
_SAME = ("device", "torch", "cuda", "driver", "diffusers")


def merged(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One run of all; the figures in the order in which they come.

    Raises:
        ValueError: The machines differ.
    """
    first = runs[0]["machine"]
    for run in runs[1:]:
        differs = [key for key in _SAME if run["machine"].get(key) != first.get(key)]
        if differs:
            raise ValueError(f"the runs differ in {', '.join(differs)}")
    return {
        "command": "; ".join(run["command"] for run in runs),
        "machine": first,
        "figures": [figure for run in runs for figure in run["figures"]],
    }


def markdown(run: dict[str, Any]) -> str:
    """The table for people."""
    machine = ", ".join(f"{key} {value}" for key, value in run["machine"].items() if value)
    lines = [f"{machine}.", "", *(f"    {command}" for command in run["command"].split("; ")), ""]
    lines += [f"| {' | '.join(row)} |" for row in (COLUMNS, ("---",) * len(COLUMNS), *rows(run))]
    return "\n".join(lines) + "\n"


def rows(run: dict[str, Any]) -> list[tuple[str, ...]]:
    """The cells of `COLUMNS`, one row for each figure."""
    return [_row(figure, figure["unit"]) for figure in run["figures"]]


def _row(figure: dict[str, Any], unit: str) -> tuple[str, ...]:
    value, floor = figure["value"], figure["floor"]
    share = f" ({100 * floor / value:.0f} %)" if value and floor else ""
    return (
        figure["piece"],
        figure["what"],
        _shown(value, unit) or "-",
        f"{_shown(figure['peer'], unit)} {figure['peer_name']}" if figure["peer"] else "",
        "" if figure["ratio"] is None else f"{figure['ratio']:.2f}",
        f"{_shown(floor, unit)}{share}",
        _shown(figure["reach"], unit),
        figure["note"],
    )


def write(run: dict[str, Any], folder: Path, stem: str) -> None:
    """stem.json, stem.svg and stem.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps(run, indent=1) + "\n")
    (folder / f"{stem}.svg").write_text(plot.svg(run))
    (folder / f"{stem}.md").write_text(markdown(run))


def _shown(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.4g} {unit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("figures", type=Path, nargs="+", help="figures.json of each run")
    parser.add_argument("--stem", default="figures", help="name of the results, for example 2026-11-28-h200")
    options = parser.parse_args()
    try:
        write(
            merged([json.loads(path.read_text()) for path in options.figures]), options.folder, options.stem
        )
    except ValueError as err:
        sys.exit(str(err))


if __name__ == "__main__":
    main()
