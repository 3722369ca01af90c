"""Options that go together, declared once as a group and taken by a command as one argument.

`@grouped` spreads the fields of a group over the command line, so that every command that paints has the same
options with the same words, and hands the command the group back as one value.
"""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from desktop import notation
from desktop.commands import options
from desktop.commands.options import Backend, DecoderName, PrecisionName, SolverName, StepCacheName

if TYPE_CHECKING:
    from desktop.commands.frame import Blobs, Frame
    from flux_core.catalog import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Painting:
    """What every command that paints takes."""

    output: options.Output
    model: options.ModelChoice = None
    seed: options.Seed = None
    steps: options.Steps = None
    guidance: options.Guidance = None
    count: options.Count = 1
    lora: options.Lora = None
    solver: options.SolverOption = SolverName.EULER
    step_cache: options.StepCacheOption = StepCacheName.OFF
    decoder: options.DecoderOption = DecoderName.FULL
    precision: options.PrecisionOption = PrecisionName.AUTO
    backend: options.BackendOption = Backend.AUTO
    json: options.Json = False
    debug: options.Debug = False

    def fields(self, spec: ModelSpec) -> dict[str, Any]:
        """Its part of a request: nothing is left open, so that the file's recipe says all."""
        return {
            "model": spec.model,
            "seed": random.randrange(2**31) if self.seed is None else self.seed,
            "num_steps": spec.num_steps if self.steps is None else self.steps,
            "guidance": spec.guidance if self.guidance is None else self.guidance,
            "num_images": self.count,
            "loras": notation.parse_loras(self.lora),
            "solver": self.solver.value,
            "step_cache": self.step_cache.value,
            "decoder": self.decoder.value,
            "precision": self.precision.value,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """How the text is read."""

    negative: options.Negative = ""
    true_guidance: options.TrueGuidance = 1.0
    clip_prompt: options.ClipPrompt = None
    tokens: options.Tokens = None
    clip_only: options.ClipOnly = False

    def fields(self) -> dict[str, Any]:
        """Its part of a request."""
        return {
            "negative_prompt": self.negative,
            "true_guidance": self.true_guidance,
            "clip_prompt": self.clip_prompt,
            "t5_tokens": self.tokens,
            "is_clip_only": self.clip_only,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Likes:
    """Pictures that the result should be like."""

    like: options.Like = None
    ip_adapter: options.IpAdapter = None

    def fields(self, blobs: Blobs) -> dict[str, Any]:
        """Its part of a request; the pictures that it names are read into `blobs`."""
        wanted = [notation.parse_likeness(text) for text in self.like or ()]
        wanted += [notation.parse_ip_adapter(text) for text in self.ip_adapter or ()]
        return {"pictures": [likeness_fields(one, blobs) for one in wanted]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Maps:
    """Maps that the result follows."""

    controlnet: options.ControlNet = None

    def fields(self, frame: Frame, blobs: Blobs) -> dict[str, Any]:
        """Its part of a request."""
        return {"controls": map_fields(self.controlnet, frame, blobs)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Places with words of their own."""

    region: options.RegionOption = None
    region_base: options.RegionBase = 0.3

    def fields(self, frame: Frame, blobs: Blobs) -> dict[str, Any]:
        """Its part of a request."""
        places = [notation.parse_region(text) for text in self.region or ()]
        return {
            "regions": [
                {"prompt": prompt, "mask": blobs.add(frame.mask_of(mask))} for mask, prompt in places
            ],
            "region_base": self.region_base,
        }


def map_fields(texts: list[str] | None, frame: Frame, blobs: Blobs) -> list[dict[str, Any]]:
    """A ControlUse of each that was written; its map is read into `blobs`."""
    maps = [notation.parse_controlnet(text) for text in texts or ()]
    return [
        given(
            kind=one.kind,
            image=blobs.add(frame.map_of(one.image)),
            model=one.model,
            strength=one.strength,
        )
        for one in maps
    ]


def likeness_fields(one: notation.Likeness, blobs: Blobs) -> dict[str, Any]:
    """A PictureUse of what was written; its picture is read into `blobs`."""
    image = blobs.add_picture(one.image)
    return given(image=image, adapter=one.adapter, strength=one.strength)


def given(**values: Any) -> dict[str, Any]:
    """The values that are not None; the request has its own word for the others."""
    return {name: value for name, value in values.items() if value is not None}


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Lets a command take groups: the command line gets their fields, the command the groups."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if isinstance(kind, type) and is_dataclass(kind):
            groups[name] = kind
            parameters += _parameters(kind)
        else:
            parameters.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def call(**values: Any) -> None:
        built = {
            name: kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            for name, kind in groups.items()
        }
        command(**values, **built)

    call.__dict__["__signature__"] = inspect.Signature(parameters)
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    return call


def _parameters(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]
