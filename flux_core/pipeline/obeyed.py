"""Refuses what a request asks for and its task or model would pass over in silence.

A field that changes nothing is worse than an error: the person turns it and wonders. What is only lost in
part is done and told in a warning.
"""

from __future__ import annotations

from collections.abc import Collection

from flux_core.catalog import PARTS, Kind, ModelSpec
from flux_core.errors import RequestInvalid
from flux_core.plan import Component, PartKey
from flux_core.request import ControlUse, GenerationRequest, PictureUse, Task


def check_look(request: GenerationRequest) -> None:
    """Refuses what only painting takes.

    Raises:
        RequestInvalid: Names it.
    """
    given = {
        "pictures to be like": request.pictures,
        "control pictures": request.controls,
        "regions": request.regions,
        "LoRAs": request.loras,
        "more than one result": request.num_images > 1,
    }
    for name, value in given.items():
        if value:
            raise RequestInvalid(f"A look takes no {name}.", "Leave them out.")


def check_obeyed(
    request: GenerationRequest, followers: Collection[ControlUse], found: Collection[PartKey]
) -> None:
    """Checks what is asked of a painting job against what its parts can hear.

    Args:
        request: Its task fits its model.
        followers: Controls that a control LoRA follows.
        found: The parts beside the model.

    Raises:
        RequestInvalid: Something would change nothing; says what to do instead.
    """
    if request.strength < 1.0 and (request.image is None or request.task is Task.EDIT):
        raise RequestInvalid(
            f"{request.task.value} does not start from a picture, so a strength of {request.strength:g} "
            "would change nothing.",
            "Leave the strength out, or choose transform.",
        )
    for use in request.controls:
        _check_own(use, is_lora=use in followers)
    for use in request.pictures:
        if _has_span(use) and not _is_ip_adapter(use, found):
            raise RequestInvalid(
                "A picture that Redux reads is heard in every step, so it has no start and no end.",
                "Leave both out, or name an IP-Adapter.",
            )


def guidance_warning(request: GenerationRequest, spec: ModelSpec) -> str | None:
    """What is told where a model was taught to follow its prompt without a guidance."""
    if not request.guidance or not spec.is_guidance_distilled or spec.transformer.has_guidance:
        return None
    return (
        f"{spec.title} reads no guidance, so that of {request.guidance:g} was left out: "
        "true guidance does something like it, for twice the time."
    )


def _check_own(use: ControlUse, is_lora: bool) -> None:
    """The model's own inputs see their map as it is, in every step; a LoRA's strength counts."""
    if use.model and not is_lora:
        return
    if _has_span(use):
        raise RequestInvalid(
            "A map that goes through the model's own inputs is followed in every step, "
            "so it has no start and no end.",
            "Leave both out, or name a ControlNet.",
        )
    if not use.model and use.strength not in (None, 1.0):
        raise RequestInvalid(
            "A model that follows a map by itself has no strength for it.",
            "Leave the strength out, or name a ControlNet or a control LoRA.",
        )


def _has_span(use: ControlUse | PictureUse) -> bool:
    return (use.start, use.end) != (0.0, 1.0)


def _is_ip_adapter(use: PictureUse, found: Collection[PartKey]) -> bool:
    row = PARTS.get(use.adapter)
    return PartKey(Component.IP_ADAPTER, use.adapter) in found or (
        row is not None and row.kind is Kind.IP_ADAPTER
    )
