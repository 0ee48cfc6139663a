"""A small web on loopback: the demo's pictures, and a few URLs that are broken the way real ones are."""

from __future__ import annotations

import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import unquote

from demo.pictures import PictureArchive

HTML = b"<!doctype html><title>Moved</title><p>This picture has moved. Please visit our new site."

FAULTS = {
    "gone": "404 Not Found",
    "page": "a web page where the picture was",
    "cut": "a JPEG that breaks off half-way",
    "empty": "an empty body",
    "noai": "a picture whose owner opts out by X-Robots-Tag: noai",
    "flaky": "503 at the first try, the picture at the second",
}
"""What /faults/KIND/NAME answers."""


class PictureServer:
    """Serves `/pictures/NAME` and `/faults/KIND/NAME` on 127.0.0.1 from a thread, while the `with` block lasts.

    Args:
        port: 0 takes any free one; OSError when the given one is taken.
    """

    def __init__(self, archive: PictureArchive, port: int = 0) -> None:
        self._server = _Server(archive, port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="picture-server")
        self._thread.daemon = True

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.server_address[1]

    @property
    def num_requests(self) -> int:
        """Requests answered so far."""
        return self._server.num_requests

    def __enter__(self) -> PictureServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # img2dataset opens a connection per picture from dozens of threads

    def __init__(self, archive: PictureArchive, port: int) -> None:
        self.archive = archive
        self.num_requests = 0
        self.tried: set[str] = set()
        super().__init__(("127.0.0.1", port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.num_requests += 1
        kind, _, name = unquote(self.path).removeprefix("/").partition("/")
        fault = ""
        if kind == "faults":
            fault, _, name = name.partition("/")
        if kind not in ("pictures", "faults") or fault == "gone" or name not in self.server.archive:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        if fault == "flaky" and self.path not in self.server.tried:
            self.server.tried.add(self.path)
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        if fault == "page":
            self._answer(HTML, "text/html; charset=utf-8")
            return
        body = self.server.archive.read(name)
        if fault == "cut":
            body = body[: len(body) // 2]
        if fault == "empty":
            body = b""
        self._answer(body, "image/jpeg", {"X-Robots-Tag": "noai"} if fault == "noai" else {})

    def _answer(self, body: bytes, content_type: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """No access log: it would be seven thousand lines."""
