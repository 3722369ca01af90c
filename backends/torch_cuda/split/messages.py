"""What rank 0 and a follower say to each other over pipes, an object of JSON a line; no arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from flux_core.catalog import ModelSpec
from flux_core.messages import Device
from flux_core.request import Precision


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LoraOrder(_Line):
    """A LoRA as a job has chosen it."""

    path: Path
    name: str
    strength: float


class LoadOrder(_Line):
    """Have this transformer ready, with these LoRAs.

    Attributes:
        number: To be said when it is.
        spec: The row, with where its files are.
        precision: Never AUTO.
    """

    order: Literal["load"] = "load"
    number: int
    spec: ModelSpec
    folder: Path
    precision: Precision
    loras: tuple[LoraOrder, ...]


class EvaluateOrder(_Line):
    """Take part in an evaluation.

    Attributes:
        kind: Number of what it is recorded as.
        inputs: Their structure (inputs.py).
        how: Computed; computed and recorded behind that, which is reported; or replayed.
        forgotten: Kinds that will not be replayed any more.
        cache: Number of the step cache that decides on the way, with a CacheOrder.
        caches: All that may still decide.
    """

    order: Literal["evaluate"] = "evaluate"
    kind: int
    inputs: JsonValue
    how: Literal["compute", "record", "replay"]
    forgotten: tuple[int, ...] = ()
    cache: int | None = None
    caches: tuple[int, ...] = ()


class CacheOrder(_Line):
    """In the middle of an evaluation: whether its blocks but the first take over what they did before."""

    order: Literal["cache"] = "cache"
    is_taken_over: bool


class FreeOrder(_Line):
    """Forget every weight."""

    order: Literal["free"] = "free"


class Report(_Line):
    """Something a follower says.

    Attributes:
        device: It has one, and begins to connect; the first report.
        loaded: The number of a LoadOrder that was carried out.
        recorded: Whether it has recorded the last evaluation.
        failed: Why it ends: the code and the message of a FluxError.
    """

    device: Device | None = None
    loaded: int | None = None
    recorded: bool | None = None
    failed: tuple[str, str, str] | None = None


Order = LoadOrder | EvaluateOrder | CacheOrder | FreeOrder
ORDERS: TypeAdapter[Order] = TypeAdapter(Annotated[Order, Field(discriminator="order")])
