"""What a command says: sentences for people, one JSON object for machines, progress beside both.

Results go to stdout, progress and errors for people to stderr. With --json stdout holds exactly one
object, also when something went wrong.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from flux_core.messages import JobEvent

Watcher = Callable[["JobEvent"], None]
ByteWatcher = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Screen:
    """Where a command's words go.

    Attributes:
        is_json: Whether a machine reads.
    """

    is_json: bool

    def say(self, text: str) -> None:
        """A line for people; a machine does not see it."""
        if not self.is_json:
            typer.echo(text)

    def note(self, text: str) -> None:
        """A remark for people beside the result, on stderr."""
        if not self.is_json:
            typer.echo(text, err=True)

    def result(self, values: object) -> None:
        """The result for machines; people do not see it."""
        if self.is_json:
            typer.echo(json.dumps(values, ensure_ascii=False, indent=2))

    def error(self, code: str, message: str, hint: str) -> None:
        """What went wrong and what to do next."""
        self.result({"error": {"code": code, "message": message, "hint": hint}})
        self.note(f"{message} {hint}".strip())

    def table(self, headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        """A plain table for people."""
        widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
        for row in (headings, *rows):
            self.say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    @contextlib.contextmanager
    def progress(self) -> Generator[Watcher]:
        """A progress bar on stderr that is fed with job events; silent for machines and in pipes."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        is_hidden = self.is_json or not console.is_terminal
        with Progress(*columns, console=console, transient=True, disable=is_hidden) as bar:
            task = bar.add_task("Waiting", total=1.0)

            def watch(event: JobEvent) -> None:
                if event.progress is not None:
                    now = event.progress
                    step = f" {now.step}/{now.num_steps}" if now.num_steps else ""
                    bar.update(task, completed=now.fraction, description=f"{now.stage.capitalize()}{step}")
                elif event.record is not None and event.record.position:
                    bar.update(task, description=f"Waiting for {event.record.position} jobs")

            yield watch

    @contextlib.contextmanager
    def byte_progress(self) -> Generator[ByteWatcher]:
        """A progress bar on stderr that is told (what, done, total) in bytes; silent as `progress` is."""
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        is_hidden = self.is_json or not console.is_terminal
        with Progress(*columns, console=console, transient=True, disable=is_hidden) as bar:
            task = bar.add_task("Waiting", total=None)
            shown = ""

            def watch(what: str, done: int, total: int) -> None:
                nonlocal shown
                if what != shown:
                    bar.reset(task, description=what, total=total, completed=done)
                    shown = what
                bar.update(task, completed=done, total=total)

            yield watch
