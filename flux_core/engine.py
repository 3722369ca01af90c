"""What the service expects of an engine: run one request at a time, say how it goes, obey a cancel.

An engine lives in its own process and is owned by one thread from loading to the last evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from flux_core.looking import Finding
from flux_core.messages import Device, Preview, Progress
from flux_core.request import GenerationRequest


@dataclass(frozen=True, slots=True)
class EngineImage:
    """One finished picture: PNG bytes, its size, and the seed that made it."""

    png: bytes
    width_px: int
    height_px: int
    seed: int


@dataclass(frozen=True, slots=True)
class EngineResult:
    """What a request gave.

    Attributes:
        images: The pictures.
        seconds: By stage, of the host: what a device still has in its queue counts where it is waited for.
        peak_memory_bytes: Peak resident memory of the process.
        warnings: Sentences for the person about what was not done as asked.
        findings: What a look found; the pictures that they name are among `images`.
    """

    images: tuple[EngineImage, ...]
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    peak_memory_bytes: int = 0
    warnings: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


class Engine(Protocol):
    """Runs requests on one device."""

    name: str

    def devices(self) -> tuple[Device, ...]:
        """The devices this engine computes on."""
        ...

    def run(
        self,
        request: GenerationRequest,
        read_blob: Callable[[str], bytes],
        say: Callable[[Progress | Preview], None],
        is_cancelled: Callable[[], bool],
    ) -> EngineResult:
        """Carries out a request.

        Args:
            request: What to do.
            read_blob: sha256 -> bytes of the request's pictures.
            say: Called with progress and previews, from the calling thread.
            is_cancelled: Asked at least once a step.

        Raises:
            Cancelled: is_cancelled() became true.
            FluxError: Any other member of the family, when the request cannot be carried out.
        """
        ...
