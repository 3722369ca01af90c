"""`flowbrush plan`: which parts a job would load, in what order and how large, without loading anything.

No file of the model is needed: the numbers come from the catalog and from the model definitions.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from desktop import notation
from desktop.commands import options
from desktop.commands.groups import given
from desktop.commands.options import ControlKindName, DecoderName, PrecisionName
from desktop.commands.screen import Screen

if TYPE_CHECKING:
    from flux_core.plan import Plan
    from flux_core.request import GenerationRequest


class TaskName(StrEnum):
    """As flux_core.request.Task, without looking, which loads one helper and nothing else."""

    GENERATE = "generate"
    TRANSFORM = "transform"
    FILL = "fill"
    EDIT = "edit"
    CONTROL = "control"
    VARY = "vary"
    UPSCALE = "upscale"


_TAKE_IMAGE = (TaskName.TRANSFORM, TaskName.FILL, TaskName.EDIT, TaskName.UPSCALE)
_BYTES_PER_VALUE = {
    PrecisionName.AUTO: 2,
    PrecisionName.BF16: 2,
    PrecisionName.FP8: 2,
    PrecisionName.FP32: 4,
}


def plan(
    task: Annotated[TaskName, typer.Argument(help="What to do.")],
    model: options.ModelChoice = None,
    kind: Annotated[ControlKindName, typer.Option(help="With control: what is followed.")] = (
        ControlKindName.CANNY
    ),
    is_map: Annotated[bool, typer.Option("--map", help="With control: the map is there already.")] = False,
    controlnet: Annotated[
        list[str] | None, typer.Option(help="Who follows a map; may be given again.")
    ] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="Who reads a picture; may be given again.")
    ] = None,
    upscaler: Annotated[str, typer.Option(help="With upscale: what enlarges first.")] = "",
    references: Annotated[int, typer.Option(help="With edit: how many more pictures.")] = 0,
    decoder: options.DecoderOption = DecoderName.FULL,
    clip_only: options.ClipOnly = False,
    size: options.Size = None,
    precision: options.PrecisionOption = PrecisionName.AUTO,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show what a job would load: every part with its stage and its bytes."""
    from desktop.commands.frame import model_for
    from flux_core import catalog
    from flux_core.plan import make_plan
    from flux_core.request import ControlKind, Task, build_request

    asked = Task(task.value)
    is_followed = asked is Task.CONTROL and not controlnet
    spec = model_for(model, asked, ControlKind(kind.value) if is_followed else None)
    catalog.check_task(spec, asked)
    side = spec.working_side_px
    width, height = notation.parse_size(size) if size else (side, side)
    request = build_request(
        task=asked,
        model=spec.model,
        **_pictures(task, kind, is_map, controlnet or [], adapter or [], references),
        upscaler=upscaler,
        decoder=decoder.value,
        is_clip_only=clip_only,
        width_px=width,
        height_px=height,
    )
    found = make_plan(request, spec, _BYTES_PER_VALUE[precision])
    screen = Screen(json)
    rows = [
        (step.stage.value, step.component.value, step.name or "-", f"{step.weight_bytes / 1e6:,.1f} MB")
        for step in found.steps
    ]
    screen.say(f"{asked.value} with {spec.title}:")
    screen.table(("STAGE", "COMPONENT", "NAME", "WEIGHTS"), rows)
    screen.say(
        f"{found.resident_bytes / 1e9:,.2f} GB if all stay in memory, {found.sequential_bytes / 1e9:,.2f} GB "
        "at the worst moment if each goes after its use."
    )
    screen.result(_as_json(request, found))


def _pictures(
    task: TaskName,
    kind: ControlKindName,
    is_map: bool,
    controlnets: list[str],
    adapters: list[str],
    references: int,
) -> dict[str, Any]:
    """Fields that stand for pictures which a plan does not have to see."""
    names = iter(f"{number:064x}" for number in range(1_000_000))
    wanted_maps = controlnets or ([""] if task is TaskName.CONTROL else [])
    wanted_eyes = adapters or ([""] if task is TaskName.VARY else [])
    return given(
        image=next(names) if task in _TAKE_IMAGE else None,
        mask=next(names) if task is TaskName.FILL else None,
        references=[next(names) for _ in range(references)],
        controls=[
            {"kind": kind.value, "image": next(names), "is_map": is_map, "model": name}
            for name in wanted_maps
        ],
        pictures=[{"image": next(names), "adapter": name} for name in wanted_eyes],
    )


def _as_json(request: GenerationRequest, found: Plan) -> dict[str, object]:
    return {
        "task": request.task.value,
        "model": request.model,
        "steps": [
            {
                "stage": step.stage.value,
                "component": step.component.value,
                "name": step.name,
                "weight_bytes": step.weight_bytes,
            }
            for step in found.steps
        ],
        "resident_bytes": found.resident_bytes,
        "sequential_bytes": found.sequential_bytes,
    }
