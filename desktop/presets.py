"""Styles that come with the program: what to tell a model so that it works in watercolour, ink or clay.

A style knows how to say it to an editing model (an instruction), to a painting model (a prompt), or to both;
the window and the command line read the same file.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from flux_core.errors import RequestInvalid

STYLES_FILE = Path(__file__).parents[1] / "resources" / "presets" / "styles.json"
_PLACE = "{text}"
_NOTHING_SAID = "the same subject"


class Style(BaseModel):
    """One style.

    Attributes:
        name: How the command line calls it.
        title: How the window calls it, by language.
        editing: What an editing model is told; "" where the style is not for editing.
        painting: The prompt, with {text} where the person's words go; "" where it is for editing only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: Annotated[str, Field(pattern=r"^[a-z][a-z-]*$")]
    title: dict[str, str]
    editing: str = Field(default="", alias="instruction")
    painting: str = Field(default="", alias="prompt")

    def instruction(self, text: str) -> str:
        """The style as an instruction, and then what else the person wants.

        Raises:
            RequestInvalid: The style is only for painting.
        """
        if not self.editing:
            raise RequestInvalid(f"The style {self.name} is not for editing.", _choose("editing"))
        return f"{self.editing} {text}".strip()

    def prompt(self, text: str) -> str:
        """The person's words in this style.

        Raises:
            RequestInvalid: The style is only for editing.
        """
        if not self.painting:
            raise RequestInvalid(f"The style {self.name} is only for editing.", _choose("painting"))
        return self.painting.replace(_PLACE, text or _NOTHING_SAID)

    def title_in(self, language: str) -> str:
        """Its name in a language, English where it has none."""
        return self.title.get(language, self.title["en"])


class _Styles(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(ge=1, le=1)
    styles: tuple[Style, ...]


@functools.cache
def styles() -> tuple[Style, ...]:
    """Every style, in the order in which they are offered."""
    return _Styles.model_validate_json(STYLES_FILE.read_bytes()).styles


def find_style(name: str) -> Style:
    """The style of this name.

    Raises:
        RequestInvalid: There is none; the hint lists those there are.
    """
    for style in styles():
        if style.name == name:
            return style
    known = ", ".join(style.name for style in styles())
    raise RequestInvalid(f"There is no style called {name[:40]!r}.", f"Choose one of: {known}.")


def _choose(purpose: str) -> str:
    return f"Choose one of: {', '.join(style.name for style in styles() if getattr(style, purpose))}."
