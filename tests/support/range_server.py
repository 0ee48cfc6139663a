"""A real HTTP server on loopback that serves a folder, with byte ranges or without, and fails on request."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType


class RangeServer:
    """Serves the files below `folder`. Use as a context manager.

    Args:
        ranges: whether `Range: bytes=A-B` is honoured; if not, the whole file is the answer, as http.server gives it.
    """

    def __init__(self, folder: Path, *, ranges: bool = True) -> None:
        self.folder, self.ranges = folder, ranges
        self.failures = 0
        """Answer the next N requests with 503."""
        self.num_sent = 0
        """Bytes of bodies sent so far."""
        self._lock = threading.Lock()
        self._closed = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if self._closed:  # cut the connections that were kept open, as when a server dies
            request.close_connection = True
            return
        with self._lock:
            failing = self.failures > 0
            self.failures -= failing
        file = self.folder / request.path.lstrip("/")
        if failing or not file.is_file():
            request.send_response(503 if failing else 404)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        data, status = file.read_bytes(), 200
        size = len(data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if asked and self.ranges:
            start, end = int(asked[1]), min(int(asked[2]) + 1, size)
            data, status = data[start:end], 206
        request.send_response(status)
        if status == 206:
            request.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        try:
            request.wfile.write(data)
        except OSError:  # the client has seen enough
            request.close_connection = True
        with self._lock:
            self.num_sent += len(data)

    def __enter__(self) -> RangeServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._server.shutdown()
        self._server.server_close()
