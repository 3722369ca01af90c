"""Runs the service on this machine: one for each state folder, on a Unix socket or on loopback.

A Unix socket is protected by its folder; TCP listens on loopback only and asks for a token. The
service says where it listens only when it does, and leaves quietly on SIGTERM: what was running waits
for the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from backends.engines import choose, device_environments
from backends.service.blobs import BlobStore
from backends.service.engine_process import WorkerSpec
from backends.service.jobs import JobService
from backends.service.journal import Journal
from backends.service.log import log_to
from backends.service.pool import LocalPool
from backends.service.state_folder import Endpoint, StateFolder, make_private_folder
from flux_core import catalog
from flux_core.errors import RequestInvalid
from flux_core.storage import write_atomically

log = logging.getLogger("flowbrush.service")


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """What a service is started with.

    Attributes:
        home: Flowbrush's home folder; the service's own folder is made under it.
        models_dirs: Where models are looked for, first match wins.
        engine: For jobs that name none; "auto" chooses.
        tcp: "HOST:PORT" to listen on loopback TCP instead of a Unix socket; port 0 takes a free one.
        num_workers: Engine processes; None means one for each device, or for each group of them.
        gpus_per_engine: GPUs that compute each picture together: a lone picture is done sooner, but many
            that wait are done later than with an engine on each GPU.
        idle_exit_s: Ends after so long without a job or a client; None means never.
    """

    home: Path
    models_dirs: tuple[Path, ...]
    engine: str = "auto"
    tcp: str | None = None
    num_workers: int | None = None
    gpus_per_engine: int = 1
    idle_exit_s: float | None = None


class AlreadyRunning(RequestInvalid):
    """Another service uses this state folder."""


def serve(options: ServiceOptions, on_ready: Callable[[Endpoint], None] | None = None) -> None:
    """Runs a service until it is told to end.

    Args:
        options: See there.
        on_ready: Called once the service listens.

    Raises:
        AlreadyRunning: Another service uses the same folder.
        RequestInvalid: The folder, address, engine or number of workers cannot be used.
        FluxError: The journal is damaged, or became unusable while the service ran.
    """
    engine = choose(options.engine)
    if options.num_workers is not None and options.num_workers < 1:
        raise RequestInvalid(f"A service cannot have {options.num_workers} workers.", "Use 1 or more.")
    if options.gpus_per_engine < 1:
        raise RequestInvalid(f"An engine cannot have {options.gpus_per_engine} GPUs.", "Use 1 or more.")
    tcp = options.tcp
    if tcp is None and not hasattr(socket, "AF_UNIX"):
        tcp = "127.0.0.1:0"
    address = None if tcp is None else _loopback(tcp)
    folder = StateFolder.under(options.home)
    folder.make()
    with _only_one(folder), log_to(folder.service_log), contextlib.ExitStack() as stack:
        journal = Journal(folder.journal)
        stack.callback(journal.close)
        listener, endpoint = _listen(folder, address)
        stack.callback(listener.close)
        service = JobService(
            journal,
            BlobStore(folder.blobs),
            lambda name, on_change: LocalPool(_worker_specs(options, folder, name), on_change),
            engine,
            lambda: catalog.model_infos(options.models_dirs),
        )

        def announce() -> None:
            folder.write_endpoint(endpoint)
            log.info("listening", extra={"endpoint": str(endpoint), "engine": engine})
            if on_ready is not None:
                on_ready(endpoint)

        asyncio.run(_run(service, listener, endpoint, options.idle_exit_s, announce))
        folder.endpoint_file.unlink(missing_ok=True)
        if endpoint.socket is not None:
            endpoint.socket.unlink(missing_ok=True)
        log.info("ended")
        if service.failure is not None:
            raise service.failure


async def _run(
    service: JobService,
    listener: socket.socket,
    endpoint: Endpoint,
    idle_exit_s: float | None,
    announce: Callable[[], None],
) -> None:
    """Until it is told to end. The engines begin first: their imports take longer than the server's."""
    await service.start()
    from backends.service.web import WebServer

    server = WebServer(service, endpoint.token, idle_exit_s, announce)
    await server.serve(sockets=[listener])


def _worker_specs(options: ServiceOptions, folder: StateFolder, engine: str) -> list[WorkerSpec]:
    environs = device_environments(engine, os.environ, gpus_per_engine=options.gpus_per_engine)
    count = options.num_workers or len(environs)
    name = "".join(char if char.isalnum() else "-" for char in engine)
    return [
        WorkerSpec(
            engine=engine,
            blobs=folder.blobs,
            models_dirs=options.models_dirs,
            log=folder.logs / f"engine-{name}-{index}.log",
            share=count,
            environ=environs[index % len(environs)],
        )
        for index in range(count)
    ]


def _loopback(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname or "", parts.port or 0
        host = "127.0.0.1" if host == "localhost" else host
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError as err:
        message = f"{address!r} is not an address."
        raise RequestInvalid(message, "Use HOST:PORT, for example 127.0.0.1:7712.") from err
    if not is_loopback:
        raise RequestInvalid(
            f"The service listens on this machine only, not on {host}.",
            "Use 127.0.0.1, and reach it from elsewhere through an SSH tunnel.",
        )
    return host, port


def _listen(folder: StateFolder, address: tuple[str, int] | None) -> tuple[socket.socket, Endpoint]:
    try:
        if address is None:
            return _listen_on_socket(folder.socket_path())
        return _listen_on_loopback(folder, *address)
    except OSError as err:
        where = folder.socket_path() if address is None else f"{address[0]}:{address[1]}"
        reason = err.strerror or str(err)
        raise RequestInvalid(f"The service cannot listen on {where}: {reason}.", "Choose another.") from err


def _listen_on_socket(path: Path) -> tuple[socket.socket, Endpoint]:
    make_private_folder(path.parent)
    path.unlink(missing_ok=True)  # left by a service that was killed; the lock says that none runs
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    return listener, Endpoint(socket=path)


def _listen_on_loopback(folder: StateFolder, host: str, port: int) -> tuple[socket.socket, Endpoint]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if sys.platform != "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    before = folder.read_endpoint()
    usual_port = urlsplit(before.url).port if before is not None and before.url else None
    try:
        listener.bind((host, port or usual_port or 0))
    except OSError:
        if port:
            listener.close()
            raise
        listener.bind((host, 0))
    shown_host = f"[{host}]" if ":" in host else host
    url = f"http://{shown_host}:{listener.getsockname()[1]}"
    return listener, Endpoint(url=url, token=_token(folder))


def _token(folder: StateFolder) -> str:
    """The folder's token; made once, readable by its owner only."""
    with contextlib.suppress(FileNotFoundError):
        folder.token.chmod(0o600)
        token = folder.token.read_text().strip()
        if len(token) >= 32:
            return token
    token = secrets.token_urlsafe(32)
    folder.token.unlink(missing_ok=True)
    folder.token.touch(mode=0o600)
    write_atomically(folder.token, token.encode())
    return token


@contextlib.contextmanager
def _only_one(folder: StateFolder) -> Iterator[None]:
    """Holds the folder's lock; the system lets go of it when the process ends, however it ends."""
    with folder.lock.open("ab") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            message = f"A service already runs in {folder.root}."
            raise AlreadyRunning(message, "Use that one, or give this one another home folder.") from err
        yield
