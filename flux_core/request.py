"""One request holds everything that one job needs.

The same object travels from the panel or the command line to the service, into the project file
(so that a layer can be generated again) and into the picture's metadata. Pictures travel beside it
as blobs named by their sha256. Validation happens here, once, with sentences a person can act on.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flux_core.allowed import allowed
from flux_core.errors import RequestInvalid

MAX_PROMPT_CHARS = 10_000
MIN_SIDE_PX = 64
MAX_SIDE_PX = 4096
SIZE_MULTIPLE_PX = 16  # eight pixels to a latent, two latents to a token
DEFAULT_MODEL = "tiny"
MAX_LORAS = 16
MAX_LORA_STRENGTH = 4.0
LORA_NAME = r"^[^./\\:\x00-\x1f\x7f][^/\\:\x00-\x1f\x7f]*$"
"""A file name: no separator, no drive, not hidden, so that it cannot lead anywhere else."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Task(StrEnum):
    """What the model is asked to do."""

    GENERATE = "generate"  # text to image
    TRANSFORM = "transform"  # image + text to image, `strength` says how much may change
    FILL = "fill"  # repaint where the mask is 1, keep the rest


class Precision(StrEnum):
    """Number format of weights and activations; AUTO lets the engine choose for its device."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


class LoraUse(BaseModel):
    """A LoRA and how much of it.

    Attributes:
        name: Of its file in the folder `loras` beside the models; ".safetensors" may be left out.
        strength: 1 is what its author meant, 0 is none, below 0 is the opposite.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=200, pattern=LORA_NAME)
    strength: float = Field(default=1.0, ge=-MAX_LORA_STRENGTH, le=MAX_LORA_STRENGTH)


class GenerationRequest(BaseModel):
    """A job, complete and serialisable.

    Attributes:
        task: What to do.
        model: Catalog id, for example "tiny" or "flux1-dev".
        prompt: What should be there; may be empty.
        seed: Noise seed in [0, 2**63); the same request with the same seed is the same picture.
        num_steps: Denoising steps in [1, 200]; None means the model's default.
        guidance: How strongly the picture follows the prompt, in [0, 100]: distilled into the model, or
            the weight of two evaluations where it was not; None means the model's default.
        width_px, height_px: Size of the result. Sides that are not multiples of 16 are generated
            larger and cut, never stretched.
        image: Blob of the source picture (PNG, any mode; resized by the sender to the size above).
        mask: Blob of a grey PNG of the same size; 255 = repaint, 0 = keep.
        strength: How much of the source may change, in (0, 1]; 1 forgets it.
        num_images: Pictures per job; picture k uses seed + k.
        precision: Number format.
        loras: What changes the model for this job, in this order; none twice.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    version: int = Field(default=1, ge=1, le=1)
    task: Task = Task.GENERATE
    model: str = Field(default=DEFAULT_MODEL, min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][\w.\-]*$")
    prompt: str = Field(default="", max_length=MAX_PROMPT_CHARS)
    seed: int = Field(default=0, ge=0, lt=2**63)
    num_steps: int | None = Field(default=None, ge=1, le=200)
    guidance: float | None = Field(default=None, ge=0.0, le=100.0)
    width_px: int = Field(default=256, ge=MIN_SIDE_PX, le=MAX_SIDE_PX)
    height_px: int = Field(default=256, ge=MIN_SIDE_PX, le=MAX_SIDE_PX)
    image: Sha256 | None = None
    mask: Sha256 | None = None
    strength: float = Field(default=1.0, gt=0.0, le=1.0)
    num_images: int = Field(default=1, ge=1, le=16)
    precision: Precision = Precision.AUTO
    loras: tuple[LoraUse, ...] = Field(default=(), max_length=MAX_LORAS)

    @model_validator(mode="after")
    def _check_inputs_fit_the_task(self) -> Self:
        if self.task is Task.GENERATE and (self.image or self.mask):
            raise ValueError("text to image takes no picture and no mask; use transform or fill")
        if self.task is not Task.GENERATE and self.image is None:
            raise ValueError(f"{self.task.value} needs a source picture")
        if (self.task is Task.FILL) != (self.mask is not None):
            raise ValueError("fill needs a mask, and only fill takes one")
        names = [use.name for use in self.loras]
        if len(set(names)) < len(names):
            raise ValueError("a LoRA is named twice; add up its strengths")
        return self

    @property
    def blobs(self) -> tuple[str, ...]:
        """The sha256 of every blob this request refers to."""
        return tuple(ref for ref in (self.image, self.mask) if ref is not None)


_NAMES = {
    "num_steps": "the number of steps",
    "width_px": "the width",
    "height_px": "the height",
    "num_images": "the number of pictures",
    "image": "the source picture",
    "loras.name": "the name of a LoRA",
    "loras.strength": "the strength of a LoRA",
}
_FORMS = {
    LORA_NAME: "a file name without a folder, of 1 to 200 characters",
    r"^[A-Za-z0-9][\w.\-]*$": "the id of a model, as `flowbrush models list` shows it",
    r"^[0-9a-f]{64}$": "the sha256 of a picture",
}
"""The forms that regular expressions of a request stand for."""


def build_request(**fields: Any) -> GenerationRequest:
    """Makes a request from outside values.

    Raises:
        RequestInvalid: One sentence that names the first wrong field and what is allowed.
    """
    try:
        return GenerationRequest(**fields)
    except ValidationError as err:
        raise RequestInvalid(*explain(err)) from None


def parse_request(text: str | bytes) -> GenerationRequest:
    """Reads a request from JSON; raises RequestInvalid as build_request does."""
    try:
        return GenerationRequest.model_validate_json(text)
    except ValidationError as err:
        raise RequestInvalid(*explain(err)) from None


def explain(err: ValidationError) -> tuple[str, str]:
    """Turns pydantic's report into (message, hint) for a person.

    Never repeats a value or a name longer than 40 characters, so a prompt of a million characters
    stays out of the message.
    """
    first = err.errors(include_url=False)[0]
    where, reason = first["loc"], str(first["msg"]).removeprefix("Value error, ")
    is_inside = where[:1] == ("request",)  # of what the service is sent
    where = where[1:] if is_inside else where
    name = field_name(where)
    if first["type"] == "json_invalid":
        return "The request is not JSON.", "Send it again."
    if not name:
        return f"The request does not fit together: {reason}.", "Change it and try again."
    if first["type"] in ("missing", "extra_forbidden"):
        fault = "is missing" if first["type"] == "missing" else "is not a part of a request"
        return f"{_cut(name)} {fault}.", "Change it and try again."
    is_ours = is_inside or err.title == GenerationRequest.__name__
    may_be = allowed(GenerationRequest, where, _FORMS) if is_ours else ""
    if first["type"] == "string_pattern_mismatch":
        reason = "It has another form"
    why = f"it must be {may_be}" if may_be else f"{reason[0].lower()}{reason[1:]}"
    value = _cut(repr(first["input"]))
    return f"{_cut(name)} cannot be {value}: {why}.", "Change it and try again."


def field_name(where: Sequence[int | str]) -> str:
    """A field as the beginning of a sentence: ("loras", 0, "name") is "The name of a LoRA"."""
    plain = ".".join(part for part in where if isinstance(part, str))
    name = _NAMES.get(plain, plain.replace("_", " "))
    return name[:1].upper() + name[1:]


def _cut(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
