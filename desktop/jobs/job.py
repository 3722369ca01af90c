"""What the window knows about a job: what it does, and how far it is.

Plain values that the panel, the canvas and the controller share; nothing here knows the service.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from desktop.document.geometry import Rect
from desktop.document.layers import GenerativeLayer
from desktop.document.tiles import Pixels
from desktop.jobs.answers import Answer
from desktop.jobs.wish import Action, Wish
from flux_core.errors import FluxError
from flux_core.messages import Hello


class Phase(StrEnum):
    """Where a job is, in the order in which it goes."""

    PREPARING = "preparing"  # cut out and sent
    WAITING = "waiting"  # other jobs go first
    LOADING = "loading"  # the model is being loaded
    RUNNING = "running"
    FETCHING = "fetching"  # done; the picture is on its way
    CANCELLING = "cancelling"


@dataclass(frozen=True, slots=True)
class Job:
    """A job that has not ended.

    Attributes:
        id: The service's job id, a UUID.
        document_id: Whose it is.
        title: Its prompt.
        box: The part of the canvas it repaints.
        fraction: In [0, 1], never falling while it runs.
        position: Jobs before it while it waits; None if not known.
    """

    id: str
    document_id: str
    title: str
    action: Action
    box: Rect
    phase: Phase = Phase.PREPARING
    fraction: float = 0.0
    step: int = 0
    num_steps: int = 0
    position: int | None = None


class ServiceState(StrEnum):
    """How the service is."""

    STARTING = "starting"
    CONNECTING = "connecting"
    LOADING = "loading"
    READY = "ready"
    BUSY = "busy"
    ENGINE_DIED = "engine_died"
    STALLED = "stalled"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Health:
    """The service's state, and why, where that is known."""

    state: ServiceState = ServiceState.STARTING
    detail: str = ""


# What the controller says; every message may come from any thread.


@dataclass(frozen=True, slots=True)
class JobChanged:
    """A job began or went on."""

    job: Job


@dataclass(frozen=True, slots=True, eq=False)
class JobPreviewed:
    """How the picture looks so far.

    Attributes:
        webp: Encoded, small; covers `box`, which may reach beyond the canvas.
        core: The part of `box` on the canvas.
        alpha: How much of it will show there, uint8 [core.height, core.width]; None shows all.
    """

    job_id: str
    document_id: str
    webp: bytes
    box: Rect
    core: Rect
    alpha: Pixels | None


@dataclass(frozen=True, slots=True)
class JobDelivered:
    """A job's result, ready to be put on top of its document. Its id is the job's id in hex.

    Attributes:
        layer: To be put on top.
        warnings: Sentences about what was not done as asked.
    """

    job_id: str
    document_id: str
    layer: GenerativeLayer
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class LookAnswered:
    """What was asked about pictures is known, or was looked for in vain."""

    job_id: str
    document_id: str
    wish: Wish
    answer: Answer


@dataclass(frozen=True, slots=True)
class JobWentOn:
    """What was asked goes on as another job; this one is over."""

    job_id: str
    document_id: str


@dataclass(frozen=True, slots=True)
class JobEnded:
    """A job is over without a result; `error` is None if the person cancelled it."""

    job_id: str
    document_id: str
    error: FluxError | None = None


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """The service is in another state."""

    health: Health


@dataclass(frozen=True, slots=True)
class ServiceKnown:
    """The service answered: its models, devices and engines."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something went wrong that belongs to no job."""

    error: FluxError


JobMessage = (
    JobChanged
    | JobPreviewed
    | JobDelivered
    | LookAnswered
    | JobWentOn
    | JobEnded
    | HealthChanged
    | ServiceKnown
    | Trouble
)
