"""The styles of resources/presets/styles.json, as the command line names them."""

from __future__ import annotations


def instruction_in(name: str | None, text: str) -> str:
    """What to tell an editing model: the text, in a style if one is named.

    Raises:
        RequestInvalid: Neither says anything, or there is no such style.
    """
    from desktop.presets import find_style
    from flux_core.errors import RequestInvalid

    words = text.strip()
    if name is None and not words:
        raise RequestInvalid("Nothing says what to change.", "Write it after the picture, or give --style.")
    return words if name is None else find_style(name).instruction(words)


def prompt_in(name: str | None, text: str) -> str:
    """What to tell a painting model: the text, in a style if one is named; raises as above for a style."""
    from desktop.presets import find_style

    return text.strip() if name is None else find_style(name).prompt(text.strip())
