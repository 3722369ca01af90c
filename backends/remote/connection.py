"""Plain HTTP to a service, with every way it can go wrong turned into a sentence.

Nothing above this module sees an httpx exception or a status code: a service that does not answer
is ConnectionLost, and an answer that says what went wrong becomes the same error that was raised on
the other side.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from backends.service.state_folder import Endpoint
from flux_core.errors import ConnectionLost, FluxError, Internal, RequestInvalid
from flux_core.messages import Failed

LOST_AFTER_S = 45.0  # without a word, a connection counts as lost

_TIMEOUT = httpx.Timeout(connect=5.0, read=30.0, write=30.0, pool=5.0)
_STREAM_TIMEOUT = httpx.Timeout(connect=5.0, read=LOST_AFTER_S, write=30.0, pool=5.0)
_LOST_HINT = "Wait a moment and try again; jobs that were sent go on without this program."

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class Connection:
    """A pool of connections to one service; may be used from any thread."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        limits = httpx.Limits(keepalive_expiry=30.0)
        no_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody; reading the CAs takes 0.1 s
        socket = str(endpoint.socket) if endpoint.socket is not None else None
        headers = {"Authorization": f"Bearer {endpoint.token}"} if endpoint.token else {}
        self._changed = threading.Condition()
        self._asking = 0
        self._is_closed = False
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(verify=no_tls, uds=socket, limits=limits, trust_env=False),
            base_url=_checked_url(endpoint),
            headers=headers,
            timeout=_TIMEOUT,
            trust_env=False,  # a proxy must never see this traffic
        )

    def close(self) -> None:
        """Ends every connection, after the questions that other threads are asking have their answers.

        A pool that closes under a thread that is just connecting would lose that socket.
        """
        with self._changed:
            self._is_closed = True
            self._changed.wait_for(lambda: self._asking == 0, _TIMEOUT.read)
        self._http.close()

    def ask(self, method: str, path: str, *, allow: tuple[int, ...] = (), **options: Any) -> httpx.Response:
        """Sends a request and gives the answer.

        Args:
            method: HTTP method.
            path: Path with its leading slash.
            allow: Error statuses that are answers to the caller, not failures.
            options: As httpx.Client.request takes them.

        Raises:
            ConnectionLost: The service does not answer.
            FluxError: What the service said.
        """
        with self.mapped(), self._counted():
            response = self._http.request(method, path, **options)
        if response.is_error and response.status_code not in allow:
            raise _error_of(response, response.content)
        return response

    @contextlib.contextmanager
    def stream(self, path: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """Opens an answer that is read piece by piece; raises as `ask` does, also while it is read."""
        with (
            self.mapped(),
            self._http.stream("GET", path, headers=headers, timeout=_STREAM_TIMEOUT) as answer,
        ):
            if answer.is_error:
                raise _error_of(answer, answer.read())
            yield answer

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._changed:
            if self._is_closed:
                raise ConnectionLost("This connection to the service has been closed.", "Open another one.")
            self._asking += 1
        try:
            yield
        finally:
            with self._changed:
                self._asking -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def mapped(self) -> Iterator[None]:
        """Turns httpx's exceptions into ConnectionLost."""
        try:
            yield
        except httpx.TimeoutException as err:
            message = f"The service at {self.endpoint} does not answer in time."
            raise ConnectionLost(message, _LOST_HINT) from err
        except (httpx.TransportError, httpx.StreamError) as err:
            reason = str(err) or type(err).__name__
            message = f"The service at {self.endpoint} does not answer: {reason.rstrip('.')}."
            raise ConnectionLost(message, _LOST_HINT) from err
        except (httpx.HTTPError, httpx.InvalidURL) as err:
            raise Internal(f"The service at {self.endpoint} answered nonsense: {err}.", _OTHER_HINT) from err


def parse(model: type[M], content: str | bytes) -> M:
    """Reads a message; raises Internal when the other side speaks another language."""
    try:
        return model.model_validate_json(content)
    except ValidationError as err:
        raise _not_understood() from err


def parse_list(adapter: TypeAdapter[T], content: bytes) -> T:
    """As `parse`, for a list of messages."""
    try:
        return adapter.validate_json(content)
    except ValidationError as err:
        raise _not_understood() from err


_OTHER_HINT = "Use the same version of Flowbrush at both ends."


def _checked_url(endpoint: Endpoint) -> str:
    if endpoint.url is None:
        return "http://service"
    try:
        parts = urlsplit(endpoint.url)
        is_address = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        message = f"{endpoint} is not the address of a service."
        raise RequestInvalid(message, "An address looks like http://127.0.0.1:7712.")
    return endpoint.url


def _not_understood() -> Internal:
    return Internal("The service said something that this version does not understand.", _OTHER_HINT)


def _error_of(response: httpx.Response, content: bytes) -> FluxError:
    try:
        return Failed.model_validate_json(content).as_error()
    except ValidationError:
        message = f"The service answered {response.status_code} without saying why."
        return Internal(message, "Check that a Flowbrush service listens at this address.")
