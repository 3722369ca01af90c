"""Where a service keeps its things, and how to reach it.

One folder per service holds its lock, socket, token, journal, blobs and logs; nobody else may look
into it (0700). The service writes down how it can be reached (`endpoint.json`) as soon as it
listens, and clients on the same machine read it from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from flux_core.errors import RequestInvalid
from flux_core.storage import write_atomically

ALREADY_RUNNING_EXIT_CODE = 4  # of a service that finds another one in its folder

_MAX_SOCKET_PATH_BYTES = 100  # the kernel's limit is 108 on Linux and 104 on macOS


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to reach a service: a Unix socket, or a URL with a token.

    Attributes:
        socket: Path of the Unix socket; excludes `url`.
        url: For example "http://127.0.0.1:7712".
        token: Sent with every request to a URL; never shown or logged.
    """

    socket: Path | None = None
    url: str | None = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.socket is None) == (self.url is None):
            raise ValueError("an endpoint is either a socket or a URL")

    def __str__(self) -> str:
        return str(self.socket) if self.socket is not None else str(self.url)


@dataclass(frozen=True, slots=True)
class StateFolder:
    """The folder of one service.

    Attributes:
        root: Everything below is readable by its owner only.
    """

    root: Path

    @classmethod
    def under(cls, home: Path) -> StateFolder:
        """The service's folder under Flowbrush's home folder."""
        return cls(home / "service")

    @property
    def lock(self) -> Path:
        return self.root / "service.lock"

    @property
    def token(self) -> Path:
        return self.root / "token"

    @property
    def journal(self) -> Path:
        return self.root / "journal.sqlite3"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def service_log(self) -> Path:
        return self.logs / "service.log"

    @property
    def start_log(self) -> Path:
        return self.logs / "start.log"

    @property
    def endpoint_file(self) -> Path:
        return self.root / "endpoint.json"

    def make(self) -> None:
        """Makes the folder, or checks and closes the one that is there.

        Raises:
            RequestInvalid: It cannot be made, or belongs to somebody else.
        """
        make_private_folder(self.root)
        make_private_folder(self.logs)

    def socket_path(self) -> Path:
        """Where the Unix socket goes: here, or in a short private folder if this path is too long."""
        path = self.root / "service.sock"
        if len(os.fsencode(path)) <= _MAX_SOCKET_PATH_BYTES:
            return path
        name = hashlib.sha256(os.fsencode(self.root.absolute())).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"flowbrush-{name}" / "service.sock"

    def write_endpoint(self, endpoint: Endpoint) -> None:
        """Tells clients on this machine how to reach the service; the token stays in its own file."""
        place = {"socket": str(endpoint.socket) if endpoint.socket else None, "url": endpoint.url}
        text = json.dumps({**place, "pid": os.getpid()})
        write_atomically(self.endpoint_file, text.encode())

    def read_endpoint(self) -> Endpoint | None:
        """How the service was last reachable; None if there is no service or its note is damaged."""
        try:
            place = json.loads(self.endpoint_file.read_bytes())
            if place["socket"]:
                return Endpoint(socket=Path(place["socket"]))
            if urlsplit(place["url"]).port is None:
                return None
            return Endpoint(url=place["url"], token=self.token.read_text().strip())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def read_pid(self) -> int | None:
        """The process that listens, or listened; None as for read_endpoint."""
        try:
            return int(json.loads(self.endpoint_file.read_bytes())["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def make_private_folder(folder: Path) -> None:
    """Makes a folder that only its owner may enter (0700).

    Raises:
        RequestInvalid: It cannot be made, is no folder, or belongs to somebody else.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or (os.name == "posix" and found.st_uid != os.getuid()):
            raise RequestInvalid(f"{folder} is not a folder of yours.", "Choose another home folder.")
        if os.name == "posix" and found.st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as err:
        reason = err.strerror or str(err)
        raise RequestInvalid(f"{folder} cannot be used: {reason}.", "Choose another home folder.") from err


def default_home(environ: Mapping[str, str]) -> Path:
    """Flowbrush's home folder: FLOWBRUSH_HOME, or the system's place for a program's data."""
    named = environ.get("FLOWBRUSH_HOME")
    return Path(named).expanduser() if named else platformdirs.user_data_path("flowbrush", appauthor=False)


def default_models_dirs(home: Path) -> tuple[Path, ...]:
    """Where models are looked for: the person's own, then the bundled family."""
    return home / "models", Path(__file__).parents[2] / "resources" / "models"
