"""What a wish says to the model: its words, how much may change, and the fields that only its task has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from desktop.jobs.sources import Sources
from desktop.jobs.wish import Action, PictureChoice, Wish
from desktop.presets import find_style
from flux_core import catalog
from flux_core.catalog import ModelSpec
from flux_core.errors import RequestInvalid
from flux_core.imaging import intents
from flux_core.imaging.intents import Intent, IntentSettings
from flux_core.request import Task

TASK_OF = {
    Action.GENERATE: Task.GENERATE,
    Action.REFINE: Task.TRANSFORM,
    Action.FILL: Task.FILL,
    Action.EDIT: Task.EDIT,
    Action.CONTROL: Task.CONTROL,
    Action.VARY: Task.VARY,
    Action.UPSCALE: Task.UPSCALE,
    **{action: Task.LOOK for action in Action if action.is_look},
}
_STRENGTH_COUNTS = (Action.REFINE, Action.FILL, Action.UPSCALE)


def model_that_fits(action: Action, wish: Wish, here: Collection[str]) -> ModelSpec:
    """The model for an act where the wish leaves it open.

    Args:
        action: What will be done.
        wish: Says what is to be followed, if anything.
        here: Ids of the models that are on the service's machine.

    Raises:
        RequestInvalid: None of the catalog can do it.
    """
    kind = wish.control.kind if action is Action.CONTROL and not wish.control.model else None
    return catalog.choose(TASK_OF[action], here, kind=kind)


def meant_by(wish: Wish, spec: ModelSpec) -> IntentSettings | None:
    """What the person means by the mask; None takes mask, words and strength as they are."""
    if not wish.intent:
        return None
    return intents.settings_for(
        Intent(wish.intent),
        wish.prompt,
        has_fill_inputs=spec.is_fill,
        is_guidance_distilled=spec.is_guidance_distilled,
    )


def words_of(action: Action, wish: Wish, meant: IntentSettings | None) -> str:
    """The prompt.

    Raises:
        RequestInvalid: An edit without words and without a style, or a style for another task.
    """
    if meant is not None:
        return meant.prompt
    if action is Action.EDIT:
        if not (wish.prompt or wish.style):
            raise RequestInvalid("Nothing says what to change.", "Write it down, or choose a style.")
        return find_style(wish.style).instruction(wish.prompt) if wish.style else wish.prompt
    if action is Action.VARY and wish.style:
        return find_style(wish.style).prompt(wish.prompt)
    return wish.prompt


def strength_of(action: Action, wish: Wish, meant: IntentSettings | None) -> float:
    """How much may change; an intent has its own word for it unless the person says less."""
    if meant is not None:
        return min(wish.strength, meant.strength)
    return wish.strength if action in _STRENGTH_COUNTS else 1.0


def task_fields(action: Action, wish: Wish, sources: Sources) -> Mapping[str, Any]:
    """The fields of a request that only this task has; their pictures go into `sources`."""
    match action:
        case Action.EDIT:
            return {"references": [sources.picture(choice) for choice in wish.references]}
        case Action.CONTROL:
            return {"controls": [_control(wish, sources)]}
        case Action.VARY:
            return {"pictures": [_likeness(choice, sources) for choice in wish.likenesses]}
        case Action.UPSCALE:
            return {"upscaler": wish.upscaler}
        case _:
            return {}


def _control(wish: Wish, sources: Sources) -> dict[str, Any]:
    control = wish.control
    return {
        "kind": control.kind,
        "image": sources.map(control.picture),
        "is_map": control.is_map,
        "model": control.model,
        "strength": control.strength,
    }


def _likeness(choice: PictureChoice, sources: Sources) -> dict[str, Any]:
    return {"image": sources.picture(choice), "strength": choice.strength}
