"""`flowbrush jobs`: what the service has done, does and will do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from desktop.commands import options
from desktop.commands.screen import Screen
from flux_core.errors import ModelMissing, RequestInvalid

if TYPE_CHECKING:
    from backends.remote.client import ServiceClient
    from flux_core.messages import JobRecord

_PROMPT_CHARS = 48
_REFUSALS = (RequestInvalid.code, ModelMissing.code)

app = typer.Typer(help="The service's jobs: list, show, cancel, acknowledge.")

JobId = Annotated[str, typer.Argument(help="The job's id, or the beginning of it.")]


@app.callback(invoke_without_command=True)
def jobs(context: typer.Context, json: options.Json = False, debug: options.Debug = False) -> None:
    """The service's jobs; without a word more, the list of them."""
    if context.invoked_subcommand is None:
        list_jobs(json=json)


@app.command("list")
def list_jobs(json: options.Json = False, debug: options.Debug = False) -> None:
    """List the jobs that the service remembers, oldest first; not those that were refused at once."""
    from desktop.commands.run_job import connect

    screen = Screen(json)
    with connect() as client:
        records = [record for record in client.jobs() if not _was_refused(record)]
    if not records:
        screen.say("There are no jobs.")
    else:
        headings = ("ID", "STATE", "AGE", "TASK", "PROMPT")
        screen.table(headings, [_row(record) for record in records])
    screen.result([record.model_dump(mode="json", exclude_none=True) for record in records])


@app.command("show")
def show(
    job_id: JobId,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write its picture here.")] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show one job; with --output, fetch the picture of one that is done."""
    from desktop.commands.run_job import connect
    from flux_core.storage import write_atomically

    screen = Screen(json)
    with connect() as client:
        record = _find(client, job_id)
        if output is not None:
            write_atomically(output, _picture(client, record, output))
            client.ack(record.job_id)
    for name, value in _facts(record):
        screen.say(f"{name:<10}{value}")
    if output is not None:
        screen.say(f"Wrote {output}.")
    screen.result(record.model_dump(mode="json", exclude_none=True))


@app.command("cancel")
def cancel(job_id: JobId, json: options.Json = False, debug: options.Debug = False) -> None:
    """Stop a job that waits or runs."""
    from desktop.commands.run_job import connect

    screen = Screen(json)
    with connect() as client:
        record = client.cancel(_find(client, job_id).job_id)
    screen.say(f"Job {record.job_id} is {record.state if record.state.is_final else 'being cancelled'}.")
    screen.result(record.model_dump(mode="json", exclude_none=True))


@app.command("ack")
def ack(job_id: JobId, json: options.Json = False, debug: options.Debug = False) -> None:
    """Say that a job's result is safe, so that the service may forget it."""
    from desktop.commands.run_job import connect

    screen = Screen(json)
    with connect() as client:
        record = client.ack(_find(client, job_id).job_id)
    screen.say(f"Job {record.job_id} is acknowledged.")
    screen.result(record.model_dump(mode="json", exclude_none=True))


def _find(client: ServiceClient, beginning: str) -> JobRecord:
    found = [record for record in client.jobs() if record.job_id.startswith(beginning.lower())]
    if not beginning or not found:
        raise RequestInvalid(f"There is no job {beginning[:40]!r}.", "See flowbrush jobs list.")
    if len(found) > 1:
        raise RequestInvalid(f"{len(found)} jobs begin with {beginning!r}.", "Write more of the id.")
    return found[0]


def _was_refused(record: JobRecord) -> bool:
    """Whether it never began, for what was asked or for a model that is missing, and whoever asked knows."""
    return record.is_acknowledged and record.failed is not None and record.failed.code in _REFUSALS


def _picture(client: ServiceClient, record: JobRecord, output: Path) -> bytes:
    from flux_core.imaging import codec, metadata

    options.check_output(output)
    if record.finished is None:
        raise RequestInvalid(
            f"Job {record.job_id} has no picture; it is {record.state}.", "Wait until it is done."
        )
    if not record.finished.images:
        raise RequestInvalid(f"Job {record.job_id} only looked at pictures.", "Leave --output out.")
    pixels = codec.decode(client.get_blob(record.finished.images[0].sha256), "the result")[..., :3]
    return metadata.encode(pixels, codec.format_of(output.name), metadata.Recipe.of(record.request))


def _row(record: JobRecord) -> tuple[str, ...]:
    prompt = " ".join(record.request.prompt.split())
    short = prompt if len(prompt) <= _PROMPT_CHARS else f"{prompt[: _PROMPT_CHARS - 1]}…"
    return record.job_id[:8], record.state, _age(record), record.request.task, short


def _age(record: JobRecord) -> str:
    seconds = max(0, int(time.time() - record.created_at))
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _facts(record: JobRecord) -> list[tuple[str, object]]:
    request = record.request
    facts: list[tuple[str, object]] = [
        ("id", record.job_id),
        ("state", record.state),
        ("age", _age(record)),
        ("task", request.task),
        ("model", request.model),
        ("size", f"{request.width_px} x {request.height_px}"),
        ("seed", request.seed),
        ("prompt", request.prompt),
    ]
    if record.position is not None:
        facts.append(("position", record.position))
    if record.failed is not None:
        facts.append(("reason", f"{record.failed.message} {record.failed.hint}".strip()))
    facts += [("LoRA", f"{use.name} at {use.strength:g}") for use in request.loras]
    if record.finished is not None:
        facts += [("warning", warning) for warning in record.finished.warnings]
        facts += [(stage, f"{seconds:.2f} s") for stage, seconds in record.finished.seconds.items()]
    return facts
