"""One connection's worth of server-sent events.

Reads the stream of /v1/events into messages until it breaks or the caller says stop. A blocked read
is ended by shutting the socket down from a second thread, so stopping takes a moment, not a heartbeat.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterable, Iterator

from backends.remote.connection import Connection, parse
from backends.remote.health import HealthWatch
from flux_core.errors import ConnectionLost
from flux_core.messages import JobEvent, ServiceHealth

_POLL_S = 0.2


def open_events(
    connection: Connection, health: HealthWatch, since: int, stop: threading.Event
) -> Iterator[JobEvent | int]:
    """Reads events until `stop`; first the number of the service's last change, then what came after `since`.

    Raises:
        ConnectionLost: The stream ended or broke before `stop`.
    """
    try:
        with (
            connection.stream("/v1/events", {"Last-Event-ID": str(since)}) as answer,
            _ends_with(stop, answer.extensions["network_stream"].get_extra_info("socket")),
        ):
            for name, data in _messages(answer.iter_lines()):
                if name == "start":
                    health.heard()
                    yield int(json.loads(data)["seq"])
                elif name == "health":
                    said = parse(ServiceHealth, data)
                    health.heard(said.state, said.detail)
                elif name == "job":
                    health.heard()
                    yield parse(JobEvent, data)
    except ConnectionLost:
        if not stop.is_set():
            raise
        return
    if not stop.is_set():
        raise ConnectionLost("The service ended the connection.", "It is being tried again.")


def _messages(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Server-sent events as (name, data); https://html.spec.whatwg.org/multipage/server-sent-events.html."""
    name, data = "", []
    for line in lines:
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data = "", []
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)


@contextlib.contextmanager
def _ends_with(stop: threading.Event, sock: socket.socket) -> Iterator[None]:
    """Shuts the socket down as soon as `stop` is set, which ends a read that waits on it."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            if stop.wait(_POLL_S):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                return

    watcher = threading.Thread(target=watch, name="event-stop", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
