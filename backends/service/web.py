"""The HTTP server of a service: uvicorn, as long as the service can go on and somebody may come.

It is imported when the engines have begun, since its libraries take as long to load as a picture to paint.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from backends.service.app import Gate, create_app
from backends.service.jobs import JobService

_SHUTDOWN_S = 5
_KEEP_ALIVE_S = 60  # longer than clients keep a connection they do not use


class WebServer(uvicorn.Server):
    """uvicorn, with event streams that end at shutdown, an end when idle, and exit code 0 on SIGTERM.

    Args:
        service: What it serves, started.
        token: Needed with every request; None where a Unix socket has its own lock.
        idle_exit_s: Ends after so long without a job or a client; None means never.
        on_started: Called once it listens.
    """

    def __init__(
        self,
        service: JobService,
        token: str | None,
        idle_exit_s: float | None,
        on_started: Callable[[], None],
    ) -> None:
        self._service = service
        self._gate = Gate(create_app(service), token)
        self._idle_exit_s = idle_exit_s
        self._on_started = on_started
        config = uvicorn.Config(
            self._gate,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            lifespan="on",
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()

    async def on_tick(self, counter: int) -> bool:
        is_due = self._idle_exit_s is not None and self._gate.quiet_s > self._idle_exit_s
        is_over = self._service.failure is not None or (is_due and self._service.is_idle)
        return await super().on_tick(counter) or is_over

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.events.close()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit  # the second time means now
        self.should_exit = True
