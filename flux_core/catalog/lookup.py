"""Finding a row by its id, and saying clearly what is not there or cannot be run.

`MODELS` holds what paints, `PARTS` what models share or take; ids are unique over both.
"""

from __future__ import annotations

from flux_core.catalog import helpers, models, parts
from flux_core.catalog.spec import ModelSpec, PartSpec, Row
from flux_core.errors import RequestInvalid
from flux_core.request import Task

MODELS: dict[str, ModelSpec] = {spec.model: spec for spec in models.ALL}
PARTS: dict[str, PartSpec] = {spec.model: spec for spec in (*parts.ALL, *helpers.ALL)}


def find(model: str) -> ModelSpec:
    """The row of a model that paints.

    Raises:
        RequestInvalid: No such model; the hint lists those there are.
    """
    if model in MODELS:
        return MODELS[model]
    hint = f"Choose one of: {', '.join(spec.model for spec in MODELS.values())}."
    if model in PARTS:
        part = PARTS[model]
        raise RequestInvalid(f"{part.title} is not a model that paints, but a part of one.", hint)
    raise RequestInvalid(f"There is no model called {model!r}.", hint)


def find_row(model: str) -> Row:
    """The row of a model or a part.

    Raises:
        RequestInvalid: No such row; the hint lists those there are.
    """
    row = MODELS.get(model) or PARTS.get(model)
    if row is None:
        known = ", ".join(each.model for each in rows())
        raise RequestInvalid(f"The catalog has nothing called {model[:40]!r}.", f"Choose one of: {known}.")
    return row


def rows() -> tuple[Row, ...]:
    """Every row, models first."""
    return *MODELS.values(), *PARTS.values()


def check_task(spec: ModelSpec, task: Task) -> None:
    """Refuses what a model cannot do, before anything is loaded.

    Raises:
        RequestInvalid: It was not made for this task.
    """
    if task is Task.LOOK:
        return  # helpers look; the model that a request names has no part in it
    if task not in spec.tasks:
        able = ", ".join(each.value for each in spec.tasks)
        raise RequestInvalid(f"{spec.title} cannot do {task.value}.", f"It can: {able}.")
