"""`flowbrush models`: which models there are, getting them, importing them, and looking after them.

Each command is a function in a small file of its subject; they come together here.
"""

from __future__ import annotations

import typer

from desktop.commands import matrix, model_files, model_sources, quantize

app = typer.Typer(
    help="The models: list, get, import, inspect, verify, quantize, matrix, delete.", no_args_is_help=True
)


@app.callback()
def models() -> None:
    """Which models there are, and getting, importing and checking them."""


app.command("list")(model_files.list_models)
app.command("get")(model_sources.get)
app.command("import")(model_sources.import_models)
app.command("inspect")(model_files.inspect)
app.command("verify")(model_files.verify)
app.command("quantize")(quantize.quantize)
app.command("matrix")(matrix.matrix)
app.command("delete")(model_files.delete)
