"""Downloads the files of a catalog row from a hub, and goes on where a broken download stopped.

The hub's own library resolves addresses, logs in and reads over HTTP; the partial file is ours, because
the library keeps none from one run to the next. A file gets its name in the folder of models only when its
size and, where it is known, its sha256 are right. The library's own log is kept quiet: it would print
addresses that carry signatures, and nothing here ever prints a token.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from backends.models_store.importing import sha256_of
from backends.models_store.linking import OnBytes, check_space, explain
from flux_core import catalog
from flux_core.catalog import ModelSpec, RemoteFile, Row
from flux_core.errors import ConnectionLost, Corrupt, FluxError, ModelMissing, RequestInvalid
from flux_core.storage import sync_folder

DOWNLOADS = ".downloads"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOCK_TIMEOUT_S = 0.2
_GO_ON = "Run the same command again: it goes on where it stopped."


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to download.

    Attributes:
        row: The row it belongs to.
        file: What the catalog says about it.
    """

    row: Row
    file: RemoteFile

    @property
    def repository(self) -> str:
        return self.file.repository or self.row.repository


@dataclass(frozen=True, slots=True)
class Remote:
    """What the hub says about a file.

    Attributes:
        address: Where the bytes are.
        etag: Changes when the file changes; the sha256 of large files.
        is_same_host: Whether the bytes lie on the hub itself, which may see the login.
    """

    wanted: Wanted
    address: str
    etag: str
    size_bytes: int
    is_same_host: bool

    @property
    def sha256(self) -> str:
        """The hash that the bytes must have; "" if nobody says."""
        return self.wanted.file.sha256 or (self.etag if _SHA256.fullmatch(self.etag) else "")


def wanted_files(row: Row, models_dir: Path, models_dirs: tuple[Path, ...]) -> list[Wanted]:
    """The files of a row, and of those it needs, that are not on this machine in any form.

    Args:
        row: What is to be got.
        models_dir: Where downloads go.
        models_dirs: Where models are looked for.
    """
    missing = catalog.missing_parts(row, models_dirs) if isinstance(row, ModelSpec) else None
    found: list[Wanted] = []
    for each in (row, *map(catalog.find_row, row.needs)):
        folder = catalog.row_folder(each, models_dir)
        for file in each.downloads:
            part = _part_of(each, file)
            is_here = (folder / file.name).exists()
            if part is not None and missing is not None:
                is_here = is_here or part not in missing
            elif part is not None:
                is_here = catalog.part_path(folder, part, file.name) is not None
            if not is_here:
                found.append(Wanted(each, file))
    return found


def get(
    wanted: list[Wanted], models_dir: Path, on_bytes: OnBytes = lambda what, done, total: None
) -> list[Path]:
    """Downloads files into the folder of models.

    Args:
        wanted: From `wanted_files`.
        models_dir: Made if it is not there.
        on_bytes: Told how far each file is.

    Returns:
        Where each file now lies.

    Raises:
        ModelMissing: The repository or file is not open to this person, or not there.
        ConnectionLost: The hub does not answer or broke off; what came is kept.
        Corrupt: The bytes are not those that were published; they were removed.
        StorageFull: They do not fit.
        RequestInvalid: The folder cannot be written, or another download of the file is running.
    """
    try:
        folder = models_dir / DOWNLOADS
        folder.mkdir(parents=True, exist_ok=True)
        with _quiet_hub():
            remotes = [_ask(each) for each in wanted]
            check_space(folder, sum(r.size_bytes - _have(_partial(folder, r)) for r in remotes))
            done = [_fetch(remote, folder, models_dir, on_bytes) for remote in remotes]
        with contextlib.suppress(OSError):
            folder.rmdir()  # only if nothing is left in it
        return done
    except FluxError:
        raise
    except OSError as err:
        raise explain(err, models_dir) from err


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT, or the library's own."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _part_of(row: Row, file: RemoteFile) -> str | None:
    """The part of a model that a file is; None for configurations and what is added to models."""
    files = row.files if isinstance(row, ModelSpec) else catalog.DEV.files
    parts = {files.t5: "t5", files.clip: "clip", files.autoencoder: "autoencoder"}
    if isinstance(row, ModelSpec):
        parts[files.transformer] = "transformer"
    return parts.get(file.name)


# The hub


@contextlib.contextmanager
def _quiet_hub() -> Generator[None]:
    """Without the library's bars and log, which show addresses, and its telling about this machine."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils import logging as hub_logging

    verbosity, telemetry = hub_logging.get_verbosity(), constants.HF_HUB_DISABLE_TELEMETRY
    hub_logging.set_verbosity(logging.CRITICAL)
    disable_progress_bars("huggingface_hub.http_get")
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield
    finally:
        hub_logging.set_verbosity(verbosity)
        constants.HF_HUB_DISABLE_TELEMETRY = telemetry


def _ask(wanted: Wanted) -> Remote:
    """What the hub says about a file, before a byte of it is read."""
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url

    with _explained(wanted):
        hub = endpoint()
        url = hf_hub_url(wanted.repository, wanted.file.path, endpoint=hub)
        found = get_hf_file_metadata(url, token=get_token(), endpoint=hub)
    if not found.etag or found.size is None:
        raise ConnectionLost(f"{hub} does not answer like a hub.", "Check HF_ENDPOINT and any proxy.")
    remote = Remote(
        wanted, found.location, found.etag, found.size, urlsplit(found.location)[:2] == urlsplit(hub)[:2]
    )
    if wanted.file.sha256 and _SHA256.fullmatch(found.etag) and found.etag != wanted.file.sha256:
        raise Corrupt(
            f"{wanted.repository} now holds another {wanted.file.path} than the one that was published.",
            "Update Flowbrush; if it is the newest, report this.",
        )
    return remote


def _fetch(remote: Remote, folder: Path, models_dir: Path, on_bytes: OnBytes) -> Path:
    """Downloads, checks and names one file."""
    partial = _partial(folder, remote)
    name = remote.wanted.file.path.rpartition("/")[2]
    with _locked(partial, name):
        _read(remote, partial, name, on_bytes)
        if remote.sha256 and _hash(partial, name, on_bytes) != remote.sha256:
            partial.unlink()
            raise Corrupt(
                f"{name} arrived with another sha256 than the published file's and was removed.",
                "Run it again; if it happens again, the repository has changed: report it.",
            )
        final = catalog.row_folder(remote.wanted.row, models_dir) / remote.wanted.file.name
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial, final)
        sync_folder(final.parent)
    return final


@contextlib.contextmanager
def _locked(partial: Path, name: str) -> Generator[None]:
    """While a download is running, another of the same file says so and ends."""
    from huggingface_hub.utils import WeakFileLock

    lock = partial.with_suffix(".lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(lock, timeout=_LOCK_TIMEOUT_S))
        except TimeoutError:
            raise RequestInvalid(
                f"Another download of {name} is running.", "Wait until it is done."
            ) from None
        yield
    lock.unlink(missing_ok=True)


def _hash(partial: Path, name: str, on_bytes: OnBytes) -> str:
    return sha256_of(partial, lambda _, done, total: on_bytes(f"check {name}", done, total))


def _read(remote: Remote, partial: Path, name: str, on_bytes: OnBytes) -> None:
    """Reads what is still missing of a file."""
    from huggingface_hub import get_token
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    have = _have(partial)
    if have > remote.size_bytes:
        partial.unlink()
        have = 0
    headers = build_hf_headers(token=get_token() if remote.is_same_host else False)
    with partial.open("r+b" if have else "wb") as file:
        file.seek(have)
        counted = _Counted(file, lambda done: on_bytes(name, done, remote.size_bytes))
        with _explained(remote.wanted):
            http_get(
                remote.address,
                cast(BinaryIO, counted),
                resume_size=have,
                headers=headers,
                expected_size=remote.size_bytes,
                displayed_filename=name,
            )
        file.flush()
        os.fsync(file.fileno())


class _Counted:
    """A file that tells how far it is written."""

    def __init__(self, file: BinaryIO, tell: Any) -> None:
        self._file = file
        self._tell = tell

    def write(self, data: bytes) -> int:
        written = self._file.write(data)
        self._tell(self._file.tell())
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _partial(folder: Path, remote: Remote) -> Path:
    """Where an unfinished file lies; another version of it has another name."""
    version = re.sub(r"[^0-9A-Za-z]+", "", remote.etag)[:64]
    return folder / f"{_safe(remote.wanted.repository, remote.wanted.file)}.{version}.part"


def _safe(repository: str, file: RemoteFile) -> str:
    return re.sub(r"[^\w.\-]+", "--", f"{repository}/{file.path}")


def unfinished(row: Row, models_dir: Path) -> list[Path]:
    """What broken downloads of a row have left, to go on from."""
    folder = models_dir / DOWNLOADS
    stems = {_safe(file.repository or row.repository, file) for file in row.downloads}
    return sorted(path for path in folder.glob("*.part") if path.name.rsplit(".", 2)[0] in stems)


def _have(partial: Path) -> int:
    return partial.stat().st_size if partial.exists() else 0


@contextlib.contextmanager
def _explained(wanted: Wanted) -> Generator[None]:
    """The library's errors as ours; never with an address or a header in them."""
    from huggingface_hub import errors

    http_error = cast("type[Exception]", errors.HfHubHTTPError.__mro__[1])  # of the HTTP library in use
    try:
        yield
    except errors.GatedRepoError:
        raise ModelMissing(
            f"{wanted.row.title} can only be downloaded by those who have accepted its terms.",
            f"Open {endpoint()}/{wanted.repository}, log in and accept them; then log in here with "
            "`hf auth login`, or set HF_TOKEN, and run it again.",
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelMissing(
            f"The hub shows no repository {wanted.repository} to you.",
            "Log in with `hf auth login`, or set HF_TOKEN; check HF_ENDPOINT if it is set.",
        ) from None
    except errors.EntryNotFoundError:
        raise ModelMissing(
            f"The repository {wanted.repository} has no file {wanted.file.path}.", "Update Flowbrush."
        ) from None
    except errors.OfflineModeIsEnabled:
        raise ConnectionLost("HF_HUB_OFFLINE forbids downloads.", "Unset it and run it again.") from None
    except errors.HfHubHTTPError as err:
        raise _refused(err.response.status_code) from None
    except errors.FileMetadataError:
        raise ConnectionLost(f"{endpoint()} does not answer like a hub.", "Check HF_ENDPOINT.") from None
    except http_error:
        raise ConnectionLost(f"The connection to {urlsplit(endpoint()).netloc} broke.", _GO_ON) from None
    except OSError as err:
        if err.errno is not None:
            raise
        raise ConnectionLost(f"The download of {wanted.file.path} ended early.", _GO_ON) from None


def _refused(status: int) -> FluxError:
    if status in (401, 403):
        return ModelMissing(
            f"The hub refused the login (status {status}).",
            "Log in again with `hf auth login`, or set HF_TOKEN to a token that may read.",
        )
    return ConnectionLost(f"The hub answered with status {status}.", f"Wait a little. {_GO_ON}")
