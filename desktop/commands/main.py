"""The program `flowbrush`: the window when it is given files or nothing, else one of the commands.

Each command lives in a small file of its own and imports what is heavy only when it runs, so that help
appears at once. Errors leave here as one sentence and an exit code: 0 done, 1 it failed, 2 the request
was wrong, 130 cancelled.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from desktop.commands import (
    bench,
    bench_lora,
    control,
    demo,
    depth,
    describe,
    doctor,
    edit,
    fill,
    generate,
    jobs,
    models,
    options,
    plan,
    project,
    score,
    segment,
    serve,
    train,
    upscale,
    vary,
    window,
)
from desktop.commands.screen import Screen
from flux_core.errors import Cancelled, FluxError, RequestInvalid

CANCELLED_EXIT_CODE = 130

app = typer.Typer(
    name="flowbrush",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("open")(window.open_window)
app.command("generate")(generate.generate)
app.command("transform")(generate.transform)
app.command("fill")(fill.fill)
app.command("edit")(edit.edit)
app.command("control")(control.control)
app.command("vary")(vary.vary)
app.command("upscale")(upscale.upscale)
app.command("plan")(plan.plan)
app.command("describe")(describe.describe)
app.command("segment")(segment.segment)
app.command("depth")(depth.depth)
app.command("score")(score.score)
app.add_typer(project.app, name="project")
app.command("serve")(serve.serve)
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")
app.add_typer(train.app, name="train")
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
bench.app.command("lora")(bench_lora.lora)
app.add_typer(bench.app, name="bench")


@app.callback()
def flowbrush(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    """A desktop image editor with layers and masks whose brush is FLUX.1.

    With files, or with nothing at all, it opens the window.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the program with its exit code."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    command = typer.main.get_command(app)
    names: dict[str, object] = getattr(command, "commands", {})
    if not arguments or (arguments[0] not in names and not arguments[0].startswith("-")):
        arguments = ["open", *arguments]
    screen = Screen(is_json="--json" in arguments)
    if arguments == ["--version"]:
        screen.say(importlib.metadata.version("flowbrush"))
        return 0
    try:
        code = command(args=arguments, prog_name="flowbrush", standalone_mode=False)
    except Exception as err:
        if "--debug" in arguments:
            raise
        return _report(err, screen, arguments)
    except KeyboardInterrupt:
        screen.error("cancelled", "Cancelled.", "")
        return CANCELLED_EXIT_CODE
    return code if isinstance(code, int) else 0


def _report(err: Exception, screen: Screen, arguments: list[str]) -> int:
    if isinstance(err, Cancelled | typer.Abort):
        screen.error("cancelled", "Cancelled.", "")
        return CANCELLED_EXIT_CODE
    if isinstance(err, FluxError):
        is_ours = isinstance(err, RequestInvalid)
        message = options.in_options(err.message, arguments) if is_ours else err.message
        screen.error(err.code, message, err.hint)
        return 2 if is_ours else 1
    if isinstance(err, BrokenPipeError):  # the reader of a pipe has gone, as in `flowbrush jobs | head`
        return 1
    usage = getattr(err, "format_message", None)  # the parser's own errors, whichever click typer brings
    if usage is not None:
        message = " ".join(str(usage()).replace("Value error, ", "").split())
        hint = "See flowbrush --help, or --help after the command."
        screen.error(RequestInvalid.code, message if message.endswith(".") else f"{message}.", hint)
        return 2
    reason = f"{type(err).__name__}: {err}".strip().rstrip(".:")
    hint = "Run it again with --debug and report what it says."
    screen.error("internal", f"Something went wrong inside Flowbrush ({reason}).", hint)
    return 1
