"""A real HTTP server on loopback that answers as the web does: well, badly, late, differently each time, or never."""

from __future__ import annotations

import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One answer; `delay_s` before the first byte, `drip_s` after each.

    `announced` is a false Content-Length, or -1 for none.
    """

    body: bytes = b""
    content_type: str = "image/jpeg"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    announced: int | None = None
    delay_s: float = 0.0
    drip_s: float = 0.0
    raw: bytes | None = None
    """What is sent instead of all that: status line, headers and body, to the byte."""
    endless: bool = False
    """Whether `raw` is sent until the client leaves."""
    required: tuple[str, str] | None = None
    """A header and a part of its value that a request needs, such as a cookie; without them the answer is 403."""


class ImageServer:
    """Serves what was added; `hits` counts requests by path, `requests` has their headers.

    `foreign` keeps requests that were meant for another host. Use as a context manager. A path's replies are sent in
    turn, the last one to every later request.
    """

    def __init__(self) -> None:
        self._replies: dict[str, tuple[Reply, ...]] = {}
        self._default: Callable[[str], Reply] | None = None
        self.hits: Counter[str] = Counter()
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Path and headers of every request."""
        self.foreign: list[str] = []
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def address(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def url(self, path: str) -> str:
        return f"{self.address}{path}"

    def add(self, path: str, *replies: Reply) -> str:
        """Serve `path`; returns its URL."""
        self._replies[path] = replies
        return self.url(path)

    def serve_anything(self, reply: Callable[[str], Reply]) -> None:
        """Answer paths that were not added."""
        self._default = reply

    def speak_tls(self, context: ssl.SSLContext) -> None:
        """Serve https from now on, with that certificate."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def reply_to(self, path: str) -> Reply:
        with self._lock:
            times = self.hits[path]
            self.hits[path] += 1
        if path in self._replies:
            replies = self._replies[path]
            return replies[min(times, len(replies) - 1)]
        return self._default(path) if self._default else Reply(b"nothing here", "text/plain", 404)

    def __enter__(self) -> ImageServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, owner: ImageServer) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing when a client leaves early: half of these tests are about that."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        if not self.path.startswith("/"):  # a client that takes this server for its proxy
            self.server.owner.foreign.append(f"GET {self.path}")
            self.send_error(403)
            return
        self.server.owner.requests.append((self.path, dict(self.headers.items())))
        reply = self.server.owner.reply_to(self.path)
        time.sleep(reply.delay_s)
        if reply.required and reply.required[1] not in self.headers.get(reply.required[0], ""):
            self.send_error(403)
            return
        if reply.raw is not None:
            self._send_raw(reply.raw, reply.drip_s, endless=reply.endless)
            return
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        announced = len(reply.body) if reply.announced is None else reply.announced
        if announced >= 0:
            self.send_header("Content-Length", str(announced))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if reply.drip_s:
            for byte in reply.body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(reply.drip_s)
        else:
            self.wfile.write(reply.body)

    def _send_raw(self, data: bytes, drip_s: float, *, endless: bool) -> None:
        self.close_connection = True
        while True:
            for piece in [data] if not drip_s else [bytes([byte]) for byte in data]:
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(drip_s)
            if not endless:
                return

    def do_CONNECT(self) -> None:
        self.server.owner.foreign.append(f"CONNECT {self.path}")
        self.send_error(403)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the tests look at `hits`."""
