"""What the service and an engine's process say to each other: one JSON object a line.

The service writes orders to the process's stdin, the process writes reports to its stdout. Pictures
do not pass here; they go through the blob store.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from flux_core.messages import Device, EngineMessage
from flux_core.request import GenerationRequest

MAX_LINE_BYTES = 16 * 1024 * 1024


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunOrder(_Line):
    """Carry this out, after what was ordered before."""

    order: Literal["run"] = "run"
    job_id: str
    request: GenerationRequest


class CancelOrder(_Line):
    """Stop this job at the next step."""

    order: Literal["cancel"] = "cancel"
    job_id: str


class Report(_Line):
    """Something an engine says.

    Attributes:
        job_id: Which job it is about; "" for the engine itself.
        message: About the job; with no job, why the engine could not be made.
        devices: The engine's devices as they are now; the first report with devices means "ready".
    """

    job_id: str = ""
    message: EngineMessage | None = None
    devices: tuple[Device, ...] | None = None


ORDERS: TypeAdapter[RunOrder | CancelOrder] = TypeAdapter(
    Annotated[RunOrder | CancelOrder, Field(discriminator="order")]
)
