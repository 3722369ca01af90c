"""Which document a project file is: a path's id, remembered from save to save.

Jobs wait for a document by its id, also while it is closed. The index is a convenience: if it is lost,
only jobs that were still running at the last close do not find back.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from flux_core.errors import FluxError
from flux_core.storage import write_atomically

_MAX_ENTRIES = 500


class DocumentIndex:
    """Path -> document id, in one small file.

    Args:
        file: Where it is kept; made at the first save.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def id_of(self, path: Path) -> str:
        """The id under which this file was saved, or a new one."""
        found = self._read().get(str(path.resolve()))
        return found if found and found.isalnum() else uuid.uuid4().hex

    def remember(self, path: Path, document_id: str) -> None:
        """This file is this document from now on."""
        entries = self._read()
        entries.pop(str(path.resolve()), None)
        entries[str(path.resolve())] = document_id
        newest = dict(list(entries.items())[-_MAX_ENTRIES:])
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, json.dumps(newest, indent=1).encode())
        except (OSError, FluxError):
            return

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self._file.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
