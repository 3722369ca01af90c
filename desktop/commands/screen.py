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

from desktop.commands.progress import Lines, lines

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID

    from flux_core.messages import JobEvent

Watcher = Callable[["JobEvent"], None]
ByteWatcher = Callable[[str, int, int], None]
CountWatcher = Callable[[int, int], None]
StageWatcher = Callable[[str, str, float], None]


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
        """Feeds job events to a bar on stderr, or to plain lines in a pipe; silent for machines."""
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with self._bar(columns, "Waiting", 1.0) as (bar, task, plain):

            def watch(event: JobEvent) -> None:
                if event.progress is not None:
                    now = event.progress
                    stage, step = (
                        now.stage.capitalize(),
                        f"{now.step}/{now.num_steps}" if now.num_steps else "",
                    )
                    bar.update(task, completed=now.fraction, description=f"{stage} {step}".strip())
                    plain.tell(stage, step)
                elif event.record is not None and event.record.position:
                    count = event.record.position
                    waiting = f"Waiting for {count} {'job' if count == 1 else 'jobs'}"
                    bar.update(task, description=waiting)
                    plain.tell(waiting)

            yield watch

    @contextlib.contextmanager
    def byte_progress(self) -> Generator[ByteWatcher]:
        """As `progress`, told (what, done, total) in bytes."""
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with self._bar(columns, "Waiting", None) as (bar, task, plain):
            shown = ""

            def watch(what: str, done: int, total: int) -> None:
                nonlocal shown
                if what != shown:
                    bar.reset(task, description=what, total=total, completed=done)
                    shown = what
                bar.update(task, completed=done, total=total)
                plain.tell(what, f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB")

            yield watch

    @contextlib.contextmanager
    def count_progress(self, what: str) -> Generator[CountWatcher]:
        """As `progress`, told (done, total) of things that are counted."""
        with self._bar((), what, None) as (bar, task, plain):

            def watch(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)
                plain.tell(what, f"{done}/{total}")

            yield watch

    @contextlib.contextmanager
    def stage_progress(self) -> Generator[StageWatcher]:
        """As `progress`, told (stage, detail, done in [0, 1])."""
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with self._bar(columns, "Starting", 1.0) as (bar, task, plain):

            def watch(stage: str, detail: str, done: float) -> None:
                bar.update(task, completed=done, description=f"{stage} {detail}".strip())
                plain.tell(stage, detail)

            yield watch

    @contextlib.contextmanager
    def _bar(
        self, columns: tuple[ProgressColumn, ...], description: str, total: float | None
    ) -> Generator[tuple[Progress, TaskID, Lines]]:
        """A bar with its only task, and the lines that stand in for it in a pipe."""
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        is_hidden = self.is_json or not console.is_terminal
        with (
            lines(self.note, is_silent=self.is_json or console.is_terminal) as plain,
            Progress(*columns, console=console, transient=True, disable=is_hidden) as bar,
        ):
            yield bar, bar.add_task(description, total=total), plain
