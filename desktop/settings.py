"""What a person chose and expects to find again: language, window, last folder.

Only the composition root reads and writes them; everyone else gets values. A file that cannot be read
counts as none, because settings are never worth an error at start.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from flux_core.errors import FluxError
from flux_core.storage import write_atomically


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings.

    Attributes:
        language: A key of i18n.LANGUAGES, or "" for the desktop's.
        folder: Where the last file was opened or saved.
        geometry: Qt's window geometry, base64.
    """

    language: str = ""
    folder: str = ""
    geometry: str = ""


def read_settings(path: Path) -> Settings:
    """The settings in a file, or the defaults."""
    try:
        found: Any = json.loads(path.read_text("utf-8"))
        names = {field.name for field in fields(Settings)}
        return Settings(**{name: str(value) for name, value in found.items() if name in names})
    except (OSError, ValueError, AttributeError):
        return Settings()


def write_settings(path: Path, settings: Settings) -> None:
    """Writes them; a disk that is full loses only them."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(settings), indent=1).encode())
    except (OSError, FluxError):
        return
