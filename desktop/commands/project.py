"""`flowbrush project`: .ora projects without a window."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from desktop import notation
from desktop.commands import options, qt_libraries
from desktop.commands.screen import Screen
from flux_core.errors import RequestInvalid

if TYPE_CHECKING:
    from desktop.document.layers import Layer
    from desktop.files.ora import Opened

app = typer.Typer(help="Projects (.ora): new, info, render, export.", no_args_is_help=True)

Project = Annotated[Path, typer.Argument(help="The .ora file.")]


@app.callback()
def project() -> None:
    """Projects without a window."""


@app.command("new")
def new(
    output: Annotated[Path, typer.Option("--output", "-o", help="The .ora file to write.")],
    image: Annotated[Path | None, typer.Argument(help="A picture to begin with.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT of an empty project.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a project that is there.")] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Begin a project, empty or from a picture."""
    if (image is None) == (size is None):
        raise RequestInvalid("A new project needs a picture or a size.", "Give IMAGE or --size, not both.")
    if output.suffix.lower() != ".ora":
        raise RequestInvalid(f"{output.name} is no project's name.", "End it in .ora.")
    if output.exists() and not force:
        raise RequestInvalid(f"{output} is there already.", "Choose another name, or add --force.")
    options.check_folder(output)
    with qt_libraries.explained():
        from desktop.document.document import Document
        from desktop.files.flat import open_picture
        from desktop.files.ora import Opened, save_ora

    if image is not None:
        opened = open_picture(image)
    else:
        opened = Opened(Document.blank(*notation.parse_size(size or "")).state, None, ())
    save_ora(opened.state, output, active_id=opened.active_id)
    _report(Screen(json), output, opened)


@app.command("info")
def info(path: Project, json: options.Json = False, debug: options.Debug = False) -> None:
    """Show a project's size and layers."""
    opened = _open(path)
    screen = Screen(json)
    size = opened.state.size
    screen.say(f"{path.name}: {size.width} x {size.height}")
    for layer in reversed(opened.state.layers):
        _say_layer(screen, layer, indent=0)
    for warning in opened.warnings:
        screen.note(warning)
    layers = [_describe(layer) for layer in reversed(opened.state.layers)]
    result = {"width_px": size.width, "height_px": size.height, "layers": layers}
    screen.result({**result, "warnings": opened.warnings})


@app.command("render")
def render(
    path: Project,
    output: options.Output,
    layer: Annotated[str | None, typer.Option(help="Only the layer of this name.")] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write the picture, or one layer of it, as plain pixels without any metadata."""
    options.check_output(output)
    opened = _open(path)
    from desktop.document import compositor
    from flux_core.imaging import codec
    from flux_core.storage import write_atomically

    state = opened.state
    layers = state.layers if layer is None else (_named(opened, layer),)
    pixels = compositor.render_layers(layers, state.canvas)
    write_atomically(output, codec.encode(pixels, codec.format_of(output.name)))
    _report(Screen(json), output, opened)


@app.command("export")
def export(
    path: Project,
    output: options.Output,
    quality: Annotated[int, typer.Option(help="1 to 100, for JPEG and WebP.")] = 92,
    strip: Annotated[bool, typer.Option("--strip", help="Write no recipe and no mark of the model.")] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write the finished picture with its metadata."""
    options.check_output(output)
    opened = _open(path)
    from desktop.files.flat import export_picture

    export_picture(opened.state, output, quality=quality, has_metadata=not strip)
    _report(Screen(json), output, opened)


def _open(path: Path) -> Opened:
    with qt_libraries.explained():
        from desktop.files.ora import open_ora
    return open_ora(path)


def _named(opened: Opened, name: str) -> Layer:
    for layer in opened.state.walk():
        if layer.name == name:
            return layer
    names = ", ".join(layer.name for layer in opened.state.walk())
    raise RequestInvalid(f"There is no layer called {name!r}.", f"There are: {names}.")


def _report(screen: Screen, output: Path, opened: Opened) -> None:
    size = opened.state.size
    screen.say(f"Wrote {output} ({size.width} x {size.height}).")
    for warning in opened.warnings:
        screen.note(warning)
    result = {"file": str(output), "width_px": size.width, "height_px": size.height}
    screen.result({**result, "warnings": opened.warnings})


def _describe(layer: Layer) -> dict[str, object]:
    from desktop.document.layers import GenerativeLayer, GroupLayer

    facts: dict[str, object] = {
        "name": layer.name,
        "kind": type(layer).__name__.removesuffix("Layer").lower(),
        "opacity": layer.opacity,
        "is_visible": layer.is_visible,
        "is_locked": layer.is_locked,
        "blend": layer.blend.value,
        "has_mask": layer.mask is not None,
    }
    if isinstance(layer, GenerativeLayer):
        facts["request"] = layer.recipe.request.model_dump(mode="json", exclude_none=True)
        facts["num_variants"] = len(layer.recipe.variants)
    if isinstance(layer, GroupLayer):
        facts["layers"] = [_describe(child) for child in reversed(layer.children)]
    return facts


def _say_layer(screen: Screen, layer: Layer, indent: int) -> None:
    from desktop.document.layers import GroupLayer

    facts = _describe(layer)
    notes = [str(facts["kind"]), str(facts["blend"]), f"{layer.opacity:.0%}"]
    notes += ["mask"] * (layer.mask is not None) + ["hidden"] * (not layer.is_visible)
    screen.say(f"{'  ' * (indent + 1)}{layer.name} ({', '.join(notes)})")
    if isinstance(layer, GroupLayer):
        for child in reversed(layer.children):
            _say_layer(screen, child, indent + 1)
