"""What the commands that look at pictures share: pictures in, one job, findings and masks out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from desktop.commands import options
from desktop.commands.options import Backend
from desktop.commands.screen import Screen

if TYPE_CHECKING:
    from backends.remote.client import ServiceClient
    from desktop.commands.run_job import Outcome
    from flux_core.looking import Finding, Look
    from flux_core.request import GenerationRequest

Helper = Annotated[
    str, typer.Option(help="Which helper looks; by default the best one here, see flowbrush models list.")
]
PictureToRead = Annotated[Path, typer.Argument(help="The picture to look at.")]
GreyOutput = Annotated[Path, typer.Option("--output", "-o", help="The grey PNG to write.")]


@dataclass(frozen=True, slots=True)
class Seen:
    """A look that is done.

    Attributes:
        findings: What was found, never empty.
        outcome: The job, with masks and maps as its pictures.
    """

    findings: tuple[Finding, ...]
    outcome: Outcome

    @property
    def summary(self) -> dict[str, object]:
        """For --json, beside the findings: which helper it was, and the figures of the job."""
        return {"helper": self.findings[0].model, **self.outcome.summary()}


def look_at(pictures: Sequence[Path], look: Look, screen: Screen, backend: Backend = Backend.AUTO) -> Seen:
    """Reads the pictures and asks the service about them."""
    from desktop.commands.run_job import connect

    blobs = [picture_blob(path) for path in pictures]
    with connect() as client:
        return look_through(client, blobs, look, screen, backend)


def look_through(
    client: ServiceClient,
    blobs: Sequence[bytes],
    look: Look,
    screen: Screen,
    backend: Backend = Backend.AUTO,
) -> Seen:
    """Asks the service about pictures that are PNG already."""
    from desktop.commands.run_job import run_job
    from flux_core.errors import Internal

    outcome = run_job(client, look_request(blobs, look), screen, blobs=tuple(blobs), backend=backend)
    if not outcome.finished.findings:
        raise Internal("The helper looked and found no words for it.", "Look into the service's log.")
    return Seen(outcome.finished.findings, outcome)


def look_request(blobs: Sequence[bytes], look: Look) -> GenerationRequest:
    """The request that asks about pictures."""
    from desktop.commands.run_job import blob_name
    from flux_core.request import Task, build_request

    names = [blob_name(blob) for blob in blobs]
    return build_request(task=Task.LOOK, image=names[0], references=tuple(names[1:]), look=look)


def picture_blob(path: Path) -> bytes:
    """A picture that a person named, as a PNG in sRGB."""
    from flux_core.imaging import codec

    return codec.encode_png(codec.decode(options.read_input(path), path.name))


def check_grey_output(path: Path) -> None:
    """Raises RequestInvalid before any work is done for a mask or map that cannot be written."""
    from flux_core.errors import RequestInvalid

    if path.suffix.lower() != ".png":
        raise RequestInvalid(f"{path.name} is no name for a grey PNG.", "Let it end in .png.")
    options.check_folder(path)


def built(kind: Callable[..., Look], **fields: object) -> Look:
    """A look of outside values, as flux_core.request.build_look, which is too heavy to import for --help."""
    from flux_core.request import build_look

    return build_look(kind, **fields)
