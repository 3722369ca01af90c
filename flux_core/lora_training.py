"""What training a LoRA is asked for, and what it says while it runs.

One serialisable tree holds everything that decides the result, so the file beside a training's state is this
very request and a training that goes on is told apart from another one. What is left open depends on the
model and on the number of pictures, and is filled in once, by `filled`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from flux_core.catalog import ModelSpec
from flux_core.errors import Corrupt, RequestInvalid
from flux_core.messages import Failed
from flux_core.request import (
    DEFAULT_MODEL,
    MAX_PROMPT_CHARS,
    MIN_SIDE_PX,
    SIZE_MULTIPLE_PX,
    FileName,
    Precision,
    explain,
)

MAX_SAMPLES = 16
_RATE = 1e-4  # of matrices as wide as FLUX.1's, which is what its trainers use
_RATE_WIDTH = 3072
_SMALL_WIDTH = 1024  # narrower models are trained on several pictures at a time
_SIZE_PX = 512  # of large models by default: a quarter of the time and memory of 1024


class Decay(StrEnum):
    """How the learning rate goes on after its warm-up."""

    COSINE = "cosine"  # falls to nothing at the last step
    FLAT = "flat"


class LoraTraining(BaseModel):
    """A training of a style or a subject.

    Attributes:
        folder: Of the pictures, with captions beside them (a.png, a.txt).
        name: Of the LoRA that it makes: a file in the folder `loras`.
        model: A row of the catalog, or the path of a FLUX.1 transformer or a diffusers folder.
        trigger: Words for pictures without a caption; put before captions that do not have them.
        rank: Of every pair of matrices; their alpha is the same, so strength 1 is what was trained.
        num_steps: Updates; None is `repeats` times the pictures.
        repeats: How often each picture is learned from where num_steps is None.
        learning_rate: Of AdamW, after the warm-up; None is 1e-4 at FLUX.1's width, more below it.
        decay: Of the rate.
        size_px: Side of the square whose area the pictures are brought to; None is the model's own up to 512.
        batch_size: Pictures of one update; None is 1, or 4 for a small model.
        seed: Of the first values, the order of pictures and the noise.
        precision: Of the base model; the LoRA itself is float32 while it learns.
        samples: Prompts painted on the way.
        sample_every: Steps from one painting to the next; None is a tenth of all.
        save_every: Steps from one save to the next, which is what a kill costs.
        is_resumed: Go on with the training of this name; whatever else is set must be as it was, but for
            num_steps, samples, sample_every and save_every.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    folder: str = Field(min_length=1)
    name: FileName
    model: str = Field(default=DEFAULT_MODEL, min_length=1)
    trigger: str = Field(default="", max_length=1000)
    rank: int = Field(default=16, ge=1, le=256)
    num_steps: int | None = Field(default=None, ge=1, le=1_000_000)
    repeats: int = Field(default=100, ge=1, le=100_000)
    learning_rate: float | None = Field(default=None, gt=0.0, le=1.0)
    decay: Decay = Decay.COSINE
    size_px: int | None = Field(default=None, ge=MIN_SIDE_PX, le=2048)
    batch_size: int | None = Field(default=None, ge=1, le=64)
    seed: int = Field(default=0, ge=0, lt=2**63)
    precision: Precision = Precision.AUTO
    samples: tuple[Annotated[str, Field(max_length=MAX_PROMPT_CHARS)], ...] = Field(
        default=(), max_length=MAX_SAMPLES
    )
    sample_every: int | None = Field(default=None, ge=1, le=1_000_000)
    save_every: int = Field(default=100, ge=1, le=1_000_000)
    is_resumed: bool = False

    @field_validator("size_px")
    @classmethod
    def _check_size(cls, size_px: int | None) -> int | None:
        if size_px is not None and size_px % SIZE_MULTIPLE_PX:
            raise ValueError(f"it must be a multiple of {SIZE_MULTIPLE_PX} pixels, as 256, 512 or 1024 are")
        return size_px

    @field_validator("precision")
    @classmethod
    def _check_precision(cls, precision: Precision) -> Precision:
        if precision is Precision.FP8:
            raise ValueError("LoRAs are trained in fp32 or bf16, not in fp8")
        return precision

    def filled(self, spec: ModelSpec, num_pictures: int) -> Self:
        """With nothing left open but the precision."""
        width = spec.transformer.hidden_size
        batch_size = self.batch_size or (4 if width < _SMALL_WIDTH else 1)
        num_steps = self.num_steps or -(-self.repeats * num_pictures // batch_size)
        return self.model_copy(
            update={
                "batch_size": batch_size,
                "num_steps": num_steps,
                "learning_rate": self.learning_rate or _RATE * _RATE_WIDTH / width,
                "size_px": self.size_px or min(_SIZE_PX, spec.working_side_px),
                "sample_every": self.sample_every or max(1, num_steps // 10),
            }
        )

    def going_on(self, before: LoraTraining) -> LoraTraining:
        """The training `before`, going on with what this request sets.

        Raises:
            RequestInvalid: This request sets something that cannot change any more.
        """
        update = {name: getattr(self, name) for name in self.model_fields_set if name in _CHANGEABLE}
        for name in sorted(self.model_fields_set - set(_CHANGEABLE)):
            then, now = getattr(before, name), getattr(self, name)
            if then != now:
                raise RequestInvalid(
                    f"The training {self.name!r} began with {name.removesuffix('_px').replace('_', ' ')} "
                    f"{str(then)[:100]!r}, not {str(now)[:100]!r}.",
                    "Leave that out to go on, or train under another name.",
                )
        return before.model_copy(update=update)


_CHANGEABLE = ("num_steps", "samples", "sample_every", "save_every", "is_resumed")


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Advance(_Message):
    """How far a training is.

    Attributes:
        stage: What it does: "Reading pictures", "Training".
        done, total: Counted things of this stage; steps while it trains.
        loss: Running mean; None while it does not train.
        steps_per_s, left_s: Speed of this run, and seconds until it is done.
    """

    kind: Literal["advance"] = "advance"
    stage: str
    done: int
    total: int
    loss: float | None = None
    steps_per_s: float | None = None
    left_s: float | None = None


class Wrote(_Message):
    """A file that is there now: a painting of a prompt ("sample"), or the LoRA as it is ("lora")."""

    kind: Literal["wrote"] = "wrote"
    what: Literal["sample", "lora"]
    path: str
    step: int


class Note(_Message):
    """A sentence for the person."""

    kind: Literal["note"] = "note"
    text: str


class Ended(_Message):
    """The training is over, or was stopped and can go on.

    Attributes:
        path: The LoRA.
        step, num_steps: Equal when it is done.
        loss: Mean of the last tenth of the steps of this run; None where there were none.
        train_s: Seconds of this run's steps, with saving and painting.
        peak_memory_bytes: Of the process.
        training: What it was, with nothing left open.
    """

    kind: Literal["ended"] = "ended"
    path: str
    step: int
    num_steps: int
    loss: float | None = None
    train_s: float
    peak_memory_bytes: int
    training: LoraTraining

    @property
    def is_done(self) -> bool:
        return self.step >= self.num_steps


Said = Annotated[Advance | Wrote | Note | Ended | Failed, Field(discriminator="kind")]
SAID: TypeAdapter[Said] = TypeAdapter(Said)
"""Reads one line that a training says."""


def build_training(**fields: Any) -> LoraTraining:
    """Makes a request from outside values; what is not given stays unset.

    Raises:
        RequestInvalid: One sentence that names the first wrong field and what is allowed.
    """
    try:
        return LoraTraining(**fields)
    except ValidationError as err:
        raise RequestInvalid(*explain(err, LoraTraining)) from None


def parse_training(text: str | bytes, what: str) -> LoraTraining:
    """Reads the file beside a training's state.

    Raises:
        Corrupt: It is not one.
    """
    try:
        return LoraTraining.model_validate_json(text)
    except ValidationError as err:
        raise Corrupt(
            f"{what} is damaged: {explain(err, LoraTraining)[0]}", "Train under another name."
        ) from None
