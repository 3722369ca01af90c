"""What an engine and the service say back: the wire format, in one place.

An engine says Progress, Preview, Finished or Failed about the job it runs. The service turns these
into JobRecord (what a job is now) and JobEvent (what changed, with a growing seq), which are what
every client reads.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from flux_core.errors import FluxError, from_code
from flux_core.looking import Finding
from flux_core.request import GenerationRequest, Sha256

PROTOCOL_VERSION = 1


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Stage(StrEnum):
    """Where a job is; the order is the order they run in."""

    LOADING = "loading"
    ENCODING = "encoding"
    DENOISING = "denoising"
    DECODING = "decoding"
    LOOKING = "looking"  # instead of the three before, where nothing is painted


class Progress(_Message):
    """How far a job is. `fraction` in [0, 1] never falls within one run of a job."""

    kind: Literal["progress"] = "progress"
    stage: Stage
    fraction: float = Field(ge=0.0, le=1.0)
    step: int = 0
    num_steps: int = 0


class Preview(_Message):
    """A small picture of the state of the job: WebP bytes, base64."""

    kind: Literal["preview"] = "preview"
    webp_base64: str
    step: int


class ResultImage(_Message):
    """One finished picture: a PNG blob without metadata, and the seed that made it."""

    sha256: Sha256
    width_px: int
    height_px: int
    seed: int


class Finished(_Message):
    """The job's pictures, seconds per stage, and sentences about what was not done as asked.

    findings: What a look found; the pictures that they name are among `images`.
    """

    kind: Literal["finished"] = "finished"
    images: tuple[ResultImage, ...]
    seconds: dict[str, float] = Field(default_factory=dict)
    peak_memory_bytes: int = 0
    engine: str = ""
    warnings: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


class Failed(_Message):
    """Why the job ended without a result; code, message and hint as in flux_core.errors."""

    kind: Literal["failed"] = "failed"
    code: str
    message: str
    hint: str = ""

    @classmethod
    def of(cls, error: FluxError) -> Failed:
        return cls(code=error.code, message=error.message, hint=error.hint)

    def as_error(self) -> FluxError:
        return from_code(self.code, self.message, self.hint)


EngineMessage = Annotated[Progress | Preview | Finished | Failed, Field(discriminator="kind")]


class JobState(StrEnum):
    """queued -> running -> done | failed | cancelled; a service that starts again re-queues running."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


class Lane(StrEnum):
    """Interactive jobs go before bulk jobs."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


class JobRecord(_Message):
    """A job as the service knows it now. `seq` is the last change; `position` counts from 0 in its queue."""

    job_id: str
    seq: int
    state: JobState
    lane: Lane
    request: GenerationRequest
    created_at: float  # seconds since the epoch
    finished: Finished | None = None
    failed: Failed | None = None
    progress: Progress | None = None
    position: int | None = None
    is_acknowledged: bool = False
    order: int = 0  # within its lane, low goes first; equals go in the order they came
    engine: str = ""  # asked for by name; "" lets the service choose


class JobSubmission(_Message):
    """What a client sends to make a job. An engine's name is one that `Hello.engines` lists, or ""."""

    request: GenerationRequest
    lane: Lane = Lane.INTERACTIVE
    order: int = Field(default=0, ge=-(2**31), lt=2**31)
    engine: str = Field(default="", max_length=200)


class JobEdit(_Message):
    """What may change while a job waits; None leaves it as it is."""

    request: GenerationRequest | None = None
    lane: Lane | None = None
    order: int | None = Field(default=None, ge=-(2**31), lt=2**31)


class ServiceHealth(_Message):
    """How the service is, sent at once when it changes and every few seconds as a heartbeat.

    Attributes:
        state: "loading" while an engine starts, "busy" while every engine has a job.
        detail: Why an engine died and its last log lines, until a later job succeeds.
    """

    state: Literal["ready", "loading", "busy", "engine_died"] = "ready"
    detail: str = ""


class JobEvent(_Message):
    """Something changed. State changes are journalled and replayed; progress and previews are not.

    seq: Number of the journal row for a state change; for progress and previews, the last row's
        number, so that a client that reconnects asks for what came after it.
    """

    seq: int
    job_id: str
    kind: Literal["state", "progress", "preview"]
    record: JobRecord | None = None  # with kind "state"
    progress: Progress | None = None  # with kind "progress"
    preview: Preview | None = None  # with kind "preview"


class Device(_Message):
    """A device that the service can compute on."""

    name: str
    kind: Literal["cpu", "cuda", "metal"]
    memory_total_bytes: int
    memory_free_bytes: int


class EngineInfo(_Message):
    """An engine the service offers: its name ("torch", "mlx"), and why it cannot run, if so."""

    name: str
    is_available: bool
    reason: str = ""


class ModelInfo(_Message):
    """A model as `models list` shows it."""

    model: str
    title: str
    licence: str
    tasks: tuple[str, ...]
    is_installed: bool
    bytes_on_disk: int = 0


class Hello(_Message):
    """The first thing a client asks."""

    protocol: int
    version: str
    devices: tuple[Device, ...]
    engines: tuple[EngineInfo, ...]
    capabilities: tuple[str, ...]
    models: tuple[ModelInfo, ...]
    state: Literal["ready", "loading", "busy", "engine_died"] = "ready"
    engine_detail: str = ""  # reason and last log lines after an engine died
