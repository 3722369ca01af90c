"""A hub on this machine: a real HTTP server that speaks as much of the hub's protocol as a download needs.

It resolves files with ETag and X-Repo-Commit, honours Range, keeps some repositories gated, sends large
files from another host, and on request breaks off in the middle, hangs, or lies.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "a" * 40


@dataclass
class Seen:
    """One request that arrived."""

    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Hub:
    """What the server holds and how it behaves.

    Attributes:
        files: "owner/name/path" -> content.
        etags: The same -> ETag that is told instead of the content's sha256.
        sizes: The same -> size that is told instead of the true one.
        gated: Repositories that only `accepted` tokens may read.
        cuts: Byte counts after which the next answers with a body break off, one each.
        is_down: Whether bodies are answered with 503.
        cdn: Address of another host that large files are redirected to, "" for none.
        holding: Set once a body has been held back at `hold_after` bytes; it goes on when `release` is set.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)
    cuts: list[int] = field(default_factory=list)
    is_down_after_cut: bool = False
    is_down: bool = False
    cdn: str = ""
    hold_after: int | None = None
    holding: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    seen: list[Seen] = field(default_factory=list)
    url: str = ""

    def ranges(self) -> list[str | None]:
        """The Range of every request for a body."""
        return [each.range for each in self.seen if each.method == "GET"]


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Runs the server on a free port of loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:  # noqa: N802
            self._answer(with_body=False)

        def do_GET(self) -> None:  # noqa: N802
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            hub.seen.append(
                Seen(self.command, self.path, self.headers.get("Range"), self.headers.get("Authorization"))
            )
            repository, _, name = urlsplit(self.path).path.lstrip("/").partition("/resolve/main/")
            key = f"{repository}/{name}"
            if repository in hub.gated and not self._is_accepted():
                return self._error(403 if self.headers.get("Authorization") else 401, "GatedRepo")
            if key not in hub.files:
                known = any(file.startswith(f"{repository}/") for file in hub.files)
                return self._error(404 if known else 401, "EntryNotFound" if known else "RepoNotFound")
            if hub.cdn and not with_body:
                return self._redirect(key)
            if with_body and hub.is_down:
                return self._error(503, "")
            return self._send(key, with_body=with_body)

        def _is_accepted(self) -> bool:
            return (self.headers.get("Authorization") or "").removeprefix("Bearer ") in hub.accepted

        def _error(self, status: int, code: str) -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _identity(self, key: str) -> tuple[str, int]:
            content = hub.files[key]
            return hub.etags.get(key, hashlib.sha256(content).hexdigest()), hub.sizes.get(key, len(content))

        def _redirect(self, key: str) -> None:
            etag, size = self._identity(key)
            self.send_response(302)
            self.send_header("Location", f"{hub.cdn}{self.path}?X-Amz-Signature=topsecret")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-ETag", f'"{etag}"')
            self.send_header("X-Linked-Size", str(size))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _send(self, key: str, *, with_body: bool) -> None:
            content = hub.files[key]
            etag, size = self._identity(key)
            start = 0
            if asked := self.headers.get("Range"):
                start = int(asked.removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.send_header("Content-Length", str(size - start))
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if with_body:
                self._body(content[start:])

        def _body(self, content: bytes) -> None:
            try:
                if hub.cuts:
                    self.wfile.write(content[: hub.cuts.pop(0)])
                    self.close_connection = True
                    hub.is_down = hub.is_down_after_cut
                elif hub.hold_after is not None:
                    at, hub.hold_after = hub.hold_after, None
                    self.wfile.write(content[:at])
                    hub.holding.set()
                    hub.release.wait(60)
                    self.wfile.write(content[at:])
                else:
                    self.wfile.write(content)
            except OSError:
                self.close_connection = True

    return Handler
