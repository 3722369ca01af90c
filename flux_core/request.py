"""One request holds everything that one job needs.

The same object travels from the panel or the command line to the service, into the project file
(so that a layer can be generated again) and into the picture's metadata. Pictures travel beside it
as blobs named by their sha256. Validation happens here, once, with sentences a person can act on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flux_core.allowed import allowed
from flux_core.errors import RequestInvalid
from flux_core.looking import MAX_PICTURES, Look, LookKind

MAX_PROMPT_CHARS = 10_000
MIN_SIDE_PX = 64
MAX_SIDE_PX = 4096
SIZE_MULTIPLE_PX = 16  # eight pixels to a latent, two latents to a token
DEFAULT_MODEL = "tiny"
MAX_LORAS = 16
MAX_LORA_STRENGTH = 4.0
MAX_REFERENCES = 8
MAX_CONTROLS = 4
MAX_REGIONS = 16
FILE_NAME = r"^[^./\\:\x00-\x1f\x7f][^/\\:\x00-\x1f\x7f]*$"
"""A file name: no separator, no drive, not hidden, so that it cannot lead anywhere else."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MAYBE_FILE_NAME = rf"^$|{FILE_NAME}"
FileName = Annotated[str, Field(min_length=1, max_length=200, pattern=FILE_NAME)]
MaybeFileName = Annotated[str, Field(max_length=200, pattern=MAYBE_FILE_NAME)]
"""A file name, or "" for what the model has itself."""
Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A part of the whole, in [0, 1]."""


class Task(StrEnum):
    """What the model is asked to do."""

    GENERATE = "generate"  # text to image
    TRANSFORM = "transform"  # image + text to image, `strength` says how much may change
    FILL = "fill"  # repaint where the mask is 1, keep the rest
    EDIT = "edit"  # change a picture as the prompt says, with more pictures to refer to (Kontext)
    CONTROL = "control"  # text to image along edges, depth or another map
    VARY = "vary"  # other pictures like the given ones (Redux, IP-Adapter)
    UPSCALE = "upscale"  # a larger picture with more detail, window by window
    LOOK = "look"  # read pictures: words, boxes, masks, maps, scores


class Precision(StrEnum):
    """Number format of weights and activations; AUTO lets the engine choose for its device.

    FP8 is BF16 with the products of the transformer's blocks in eight-bit floats, on devices that multiply
    those in half the time; elsewhere it is what AUTO is, and the result says so.
    """

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP8 = "fp8"


class Solver(StrEnum):
    """How the walk from noise to picture takes its steps."""

    EULER = "euler"  # first order, what FLUX.1 was made with
    HEUN = "heun"  # second order, two evaluations a step
    DPMPP_2M = "dpmpp_2m"  # second order, one evaluation a step
    UNIPC = "unipc"  # predictor and corrector, one evaluation a step


class StepCache(StrEnum):
    """Whether steps that change little take over the result of the step before."""

    OFF = "off"
    CAREFUL = "careful"
    FAST = "fast"


class Decoder(StrEnum):
    """Which autoencoder makes the picture of the latents."""

    FULL = "full"
    FAST = "fast"  # TAEF1: a fraction of the time, softer detail


class ControlKind(StrEnum):
    """What a control map shows."""

    CANNY = "canny"
    DEPTH = "depth"
    TILE = "tile"
    BLUR = "blur"
    POSE = "pose"
    GREY = "grey"
    LOW_QUALITY = "low_quality"
    SOFT_EDGE = "soft_edge"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LoraUse(_Part):
    """A LoRA and how much of it.

    Attributes:
        name: Of its file in the folder `loras` beside the models; ".safetensors" may be left out.
        strength: 1 is what its author meant, 0 is none, below 0 is the opposite.
    """

    name: FileName
    strength: float = Field(default=1.0, ge=-MAX_LORA_STRENGTH, le=MAX_LORA_STRENGTH)


class PictureUse(_Part):
    """A picture that the result should be like, read by Redux or by an IP-Adapter.

    Attributes:
        image: Its blob, of any size.
        adapter: Who reads it: a row of the catalog or a file in the folder `adapters`; "" is the
            model's own Redux.
        strength: How much it counts beside the words, in [0, 2]; 1 is what the adapter was made for.
        start, end: The part of the steps in which an IP-Adapter is heard; Redux is words, always heard.
    """

    image: Sha256
    adapter: MaybeFileName = ""
    strength: float = Field(default=1.0, ge=0.0, le=2.0)
    start: Share = 0.0
    end: Share = 1.0

    @model_validator(mode="after")
    def _check_span(self) -> Self:
        return _spans(self)


class ControlUse(_Part):
    """A map that the result follows.

    Attributes:
        kind: What the map shows.
        image: Blob of the map, or of a picture that it is made from; of any size.
        is_map: False lets the engine make the map: edges itself, depth with a depth estimator.
        model: Who follows it: a ControlNet or control LoRA (a row of the catalog, or a file in the folder
            `controlnets` or `loras`); "" is the model itself, where it was made for this kind.
        strength: How strictly, in [0, 2]; None is its authors' own.
        start, end: The part of the steps in which a ControlNet is heard.
    """

    kind: ControlKind
    image: Sha256
    is_map: bool = True
    model: MaybeFileName = ""
    strength: float | None = Field(default=None, ge=0.0, le=2.0)
    start: Share = 0.0
    end: Share = 1.0

    @model_validator(mode="after")
    def _check_span(self) -> Self:
        return _spans(self)


class Region(_Part):
    """A place with words of its own.

    Attributes:
        prompt: What should be there.
        mask: Blob of a grey PNG of the picture's size; 255 = inside.
        strength: How much its words count there, in (0, 2].
    """

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT_CHARS)
    mask: Sha256
    strength: float = Field(default=1.0, gt=0.0, le=2.0)


class GenerationRequest(_Part):
    """A job, complete and serialisable.

    Attributes:
        task: What to do.
        model: Catalog id, for example "tiny" or "flux1-dev".
        prompt: What should be there; may be empty.
        clip_prompt: What CLIP reads instead of `prompt`; None for the same.
        negative_prompt: What should not be there; needs `true_guidance` above 1.
        t5_tokens: Padded length of the prompt, 256 or 512; None means the model's own.
        is_clip_only: Leave T5 out: faster, and the words are followed only roughly.
        seed: Noise seed in [0, 2**63); the same request with the same seed is the same picture.
        num_steps: Denoising steps in [1, 200]; None means the model's default.
        guidance: How strongly the picture follows the prompt, in [0, 100]: distilled into the model, or
            the weight of two evaluations where it was not; None means the model's default.
        true_guidance: Weight of the prompt against `negative_prompt`, in [1, 20]; above 1 every step takes
            two evaluations.
        solver: How steps are taken.
        step_cache: Whether steps may take over earlier results.
        width_px, height_px: Size of the result. Sides that are not multiples of 16 are generated
            larger and cut, never stretched.
        image: Blob of the source picture (PNG, any mode). Transform and fill want it in the size above,
            because only the sender knows how it should be fitted; edit and upscale take any size.
        mask: Blob of a grey PNG of the size above. Fill: 255 = repaint, 0 = keep. Transform: how much
            of `strength` each place has, 255 = all of it.
        references: Blobs of more pictures that an edit may refer to, or that are looked at, of any size.
        pictures: What the result should be like (Redux, IP-Adapter).
        controls: Maps that it follows; at most one by the model itself, any number by ControlNets.
        regions: Places with words of their own; the prompt is for the whole.
        region_base: How much the prompt of the whole counts inside regions, in [0, 1].
        strength: How much of the source may change, in (0, 1]; 1 forgets it.
        upscaler: A file in the folder `upscalers` that enlarges the picture before details are painted;
            "" for plain resampling.
        num_images: Pictures per job; picture k uses seed + k.
        precision: Number format.
        decoder: Which autoencoder makes the picture.
        loras: What changes the model for this job, in this order; none twice.
        look: With LOOK: what to find out about `image` and `references`.
    """

    version: int = Field(default=1, ge=1, le=1)
    task: Task = Task.GENERATE
    model: str = Field(default=DEFAULT_MODEL, min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][\w.\-]*$")
    prompt: str = Field(default="", max_length=MAX_PROMPT_CHARS)
    clip_prompt: str | None = Field(default=None, max_length=MAX_PROMPT_CHARS)
    negative_prompt: str = Field(default="", max_length=MAX_PROMPT_CHARS)
    t5_tokens: Literal[256, 512] | None = None
    is_clip_only: bool = False
    seed: int = Field(default=0, ge=0, lt=2**63)
    num_steps: int | None = Field(default=None, ge=1, le=200)
    guidance: float | None = Field(default=None, ge=0.0, le=100.0)
    true_guidance: float = Field(default=1.0, ge=1.0, le=20.0)
    solver: Solver = Solver.EULER
    step_cache: StepCache = StepCache.OFF
    width_px: int = Field(default=256, ge=MIN_SIDE_PX, le=MAX_SIDE_PX)
    height_px: int = Field(default=256, ge=MIN_SIDE_PX, le=MAX_SIDE_PX)
    image: Sha256 | None = None
    mask: Sha256 | None = None
    references: tuple[Sha256, ...] = Field(default=(), max_length=MAX_PICTURES - 1)
    pictures: tuple[PictureUse, ...] = Field(default=(), max_length=MAX_REFERENCES)
    controls: tuple[ControlUse, ...] = Field(default=(), max_length=MAX_CONTROLS)
    regions: tuple[Region, ...] = Field(default=(), max_length=MAX_REGIONS)
    region_base: Share = 0.3
    strength: float = Field(default=1.0, gt=0.0, le=1.0)
    upscaler: MaybeFileName = ""
    num_images: int = Field(default=1, ge=1, le=16)
    precision: Precision = Precision.AUTO
    decoder: Decoder = Decoder.FULL
    loras: tuple[LoraUse, ...] = Field(default=(), max_length=MAX_LORAS)
    look: Look | None = None

    @model_validator(mode="after")
    def _check_inputs_fit_the_task(self) -> Self:
        self._check_pictures()
        self._check_words()
        names = [use.name for use in self.loras]
        if len(set(names)) < len(names):
            raise ValueError("a LoRA is named twice; add up its strengths")
        return self

    def _check_pictures(self) -> None:
        task = self.task
        if task is Task.GENERATE and (self.image or self.mask):
            raise ValueError("text to image takes no picture and no mask; use transform or fill")
        if task in _NEED_IMAGE and self.image is None:
            raise ValueError(f"{task.value} needs a source picture")
        if task is Task.FILL and self.mask is None:
            raise ValueError("fill needs a mask")
        if self.mask is not None and task not in (Task.FILL, Task.TRANSFORM):
            raise ValueError("only fill and transform take a mask")
        if self.references and task not in (Task.EDIT, Task.LOOK):
            raise ValueError(
                "only edit and look take reference pictures; use pictures for Redux and IP-Adapters"
            )
        if task is Task.EDIT and len(self.references) > MAX_REFERENCES:
            raise ValueError(f"an edit takes at most {MAX_REFERENCES} reference pictures")
        if (task is Task.LOOK) != (self.look is not None):
            raise ValueError("look says what to find out, and only the task look takes it")
        if task is Task.CONTROL and not self.controls:
            raise ValueError("control needs a control picture")
        if task is Task.VARY and not self.pictures:
            raise ValueError("vary needs a picture to be like")
        if sum(not control.model for control in self.controls) > 1:
            raise ValueError(
                "the model itself can follow one control picture; name a ControlNet for the others"
            )
        if self.upscaler and task is not Task.UPSCALE:
            raise ValueError("only upscale takes an upscaler")

    def _check_words(self) -> None:
        if self.negative_prompt and self.true_guidance == 1.0:
            raise ValueError("negative_prompt needs a true_guidance above 1, which takes twice the time")
        masks = [region.mask for region in self.regions]
        if len(set(masks)) < len(masks):
            raise ValueError("two regions have the same mask; make one region of their prompts")

    @property
    def blobs(self) -> tuple[str, ...]:
        """The sha256 of every blob this request refers to, each once."""
        named = (
            self.image,
            self.mask,
            *self.references,
            *(use.image for use in self.pictures),
            *(use.image for use in self.controls),
            *(region.mask for region in self.regions),
        )
        return tuple(dict.fromkeys(ref for ref in named if ref is not None))


_NEED_IMAGE = (Task.TRANSFORM, Task.FILL, Task.EDIT, Task.UPSCALE, Task.LOOK)

S = TypeVar("S", PictureUse, ControlUse)


def _spans(use: S) -> S:
    if use.start >= use.end:
        raise ValueError("start must come before end")
    return use


_NAMES = {
    "num_steps": "the number of steps",
    "width_px": "the width",
    "height_px": "the height",
    "num_images": "the number of pictures",
    "image": "the source picture",
    "loras.name": "the name of a LoRA",
    "loras.strength": "the strength of a LoRA",
    "pictures": "a picture to be like",
    "pictures.adapter": "the adapter of a picture to be like",
    "pictures.image": "a picture to be like",
    "pictures.strength": "the strength of a picture to be like",
    "controls": "a control picture",
    "controls.kind": "the kind of a control picture",
    "controls.image": "a control picture",
    "controls.model": "the model of a control picture",
    "controls.strength": "the strength of a control picture",
    "controls.start": "the start of a control picture",
    "controls.end": "the end of a control picture",
    "pictures.start": "the start of a picture to be like",
    "pictures.end": "the end of a picture to be like",
    "regions.prompt": "the prompt of a region",
    "regions.mask": "the mask of a region",
    "regions.strength": "the strength of a region",
    "t5_tokens": "the length of the prompt in tokens",
    "look": "what to look for",
    "size_px": "the size",
    "samples": "the prompts of samples",
}
_FORMS = {
    FILE_NAME: "a file name without a folder, of 1 to 200 characters",
    MAYBE_FILE_NAME: "a file name without a folder, of at most 200 characters",
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


def build_look(kind: Callable[..., Look], **fields: Any) -> Look:
    """Makes a look (a class of flux_core.looking) from outside values; raises as build_request does."""
    try:
        return kind(**fields)
    except ValidationError as err:
        raise RequestInvalid(*explain(err)) from None


def parse_request(text: str | bytes) -> GenerationRequest:
    """Reads a request from JSON; raises RequestInvalid as build_request does."""
    try:
        return GenerationRequest.model_validate_json(text)
    except ValidationError as err:
        raise RequestInvalid(*explain(err)) from None


def explain(err: ValidationError, model: type[BaseModel] = GenerationRequest) -> tuple[str, str]:
    """Turns pydantic's report about `model` into (message, hint) for a person.

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
    if first["type"] == "value_error":
        return f"{_cut(name)}: {reason}.", "Change it and try again."
    if first["type"] == "union_tag_invalid":
        return f"{_cut(name)}: there is no such kind.", f"Choose one of: {', '.join(LookKind)}."
    is_ours = is_inside or err.title == model.__name__
    may_be = allowed(model, where, _FORMS) if is_ours else ""
    if first["type"] == "string_pattern_mismatch":
        reason = "It has another form"
    why = f"it must be {may_be}" if may_be else f"{reason[0].lower()}{reason[1:]}"
    value = _shown(first["input"])
    return f"{_cut(name)} cannot be {value}: {why}.", "Change it and try again."


def field_name(where: Sequence[int | str]) -> str:
    """A field as the beginning of a sentence: ("loras", 0, "name") is "The name of a LoRA"."""
    plain = ".".join(part for part in where if isinstance(part, str))
    name = _NAMES.get(plain, plain.replace("_", " "))
    return name[:1].upper() + name[1:]


def _shown(value: Any) -> str:
    try:
        return _cut(repr(value))
    except ValueError:  # Python writes no integer of thousands of digits
        return "a value of thousands of digits"


def _cut(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
