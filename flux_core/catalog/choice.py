"""Which model does what, where a person has named none: the one place that decides it.

What is on this machine goes before what is not. Of what is here, published models go before the bundled
family, which is there so that something is; of what is not, the bundled ones, which should be. A model that
was made for the task alone goes before one that can do it, too.
"""

from __future__ import annotations

from collections.abc import Collection

from flux_core.catalog.lookup import MODELS, PARTS
from flux_core.catalog.spec import ModelSpec
from flux_core.errors import RequestInvalid
from flux_core.request import ControlKind, Task

_FEW_STEPS = 4


def choose(
    task: Task,
    here: Collection[str],
    *,
    kind: ControlKind | None = None,
    is_quick: bool = False,
) -> ModelSpec:
    """The model for a task.

    Args:
        task: What is to be done.
        here: Ids of the models that are on the machine that will paint.
        kind: With control, what is to be followed without the help of a ControlNet; else None.
        is_quick: Whether only a model that needs few steps will do.

    Raises:
        RequestInvalid: No model of the catalog can do it.
    """
    able = [spec for spec in MODELS.values() if task in spec.tasks]
    if task is Task.CONTROL:
        able = [spec for spec in able if follows(spec, kind)]
    if is_quick:
        able = [spec for spec in able if spec.num_steps <= _FEW_STEPS]

    def rank(spec: ModelSpec) -> tuple[bool, ...]:
        is_few = spec.num_steps <= _FEW_STEPS
        is_here = (
            spec.model in here
        )  # of those that are here the published come first, of the others the bundled
        return not is_here, spec.is_bundled == is_here, is_few, len(spec.tasks) > 1

    if able:
        return min(able, key=rank)
    if kind is not None:
        raise RequestInvalid(
            f"No model follows {kind.value} by itself.", "Name who follows it with --controlnet."
        )
    raise RequestInvalid(f"No model of the catalog can do {task.value}.", "Name one with --model.")


def follower(spec: ModelSpec, kind: ControlKind) -> str:
    """The row of the model's own control LoRA for a kind of map; "" if it has none."""
    return next((row for row in spec.control_loras if kind in PARTS[row].kinds), "")


def follows(spec: ModelSpec, kind: ControlKind | None) -> bool:
    """Whether a model takes a map of this kind; without a kind, one that a ControlNet follows."""
    if kind is None:
        return spec.control_kind is None
    return spec.control_kind is kind or bool(follower(spec, kind))
