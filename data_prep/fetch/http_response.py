"""One response of a server, read as browsers read it: interim responses and many headers, bounded in bytes and time.

Python's http.client accepts neither 103 Early Hints nor more than 100 headers, and waits as long as bytes drip.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import time
import urllib.request
from typing import Any

MAX_HEAD_BYTES = 1 << 18
"""Of status lines and headers, interim responses included; Chrome's limit is the same."""
INTERIM = re.compile(rb"HTTP/1\.[0-9] 1(?!01)[0-9][0-9]\b")
"""100 Continue, 102 Processing, 103 Early Hints: the final response follows. Not 101, which ends HTTP."""
HEEDED = re.compile(
    rb"(location|set-cookie2?|content-[a-z]+|transfer-encoding|connection|keep-alive|proxy-connection|retry-after"
    rb"|x-robots-tag)[ \t]*:",
    re.IGNORECASE,
)
"""Headers that data_prep reads; http.client would fail at more than a hundred, so the others are dropped."""


class TooSlow(OSError):
    """The response is not whole at its deadline."""


class Ask(urllib.request.Request):
    """A request whose response must be whole at `deadline`, of `time.monotonic`."""

    def __init__(self, url: str, headers: dict[str, str], deadline: float) -> None:
        super().__init__(url, headers=headers)
        self.deadline = deadline


class Response(http.client.HTTPResponse):
    """http.client's response, with its head read here.

    Args:
        deadline: of `time.monotonic`; later reads raise TooSlow.
    """

    def __init__(self, sock: socket.socket, *arguments: Any, deadline: float, **settings: Any) -> None:
        super().__init__(sock, *arguments, **settings)
        self.fp = io.BufferedReader(_UntilDeadline(self.fp.detach(), deadline))

    def begin(self) -> None:
        """Read the head. Raises: http.client.HTTPException, OSError, TooSlow."""
        body = self.fp
        self.fp = io.BufferedReader(io.BytesIO(self._head()))
        super().begin()
        self.fp = body

    def _head(self) -> bytes:
        """The final response's status line, and those of its headers that data_prep reads."""
        left = MAX_HEAD_BYTES
        while True:
            lines: list[bytes] = []
            while (line := self.fp.readline(left)).strip(b"\r\n"):
                if not lines and not line.startswith(b"HTTP/"):
                    raise http.client.BadStatusLine(line.decode("latin-1"))
                if len(line) == left:
                    raise http.client.HTTPException(f"more than {MAX_HEAD_BYTES} bytes of headers")
                left -= len(line)
                lines.append(line)
            if not line:
                what = "inside the headers" if lines else "without an answer"
                raise ConnectionResetError(f"the connection was closed {what}")
            left -= len(line)
            if not lines:
                raise http.client.BadStatusLine("an empty line")
            if INTERIM.match(lines[0]) is None:
                return b"".join([lines[0], *_heeded(lines[1:]), b"\r\n"])


def _heeded(lines: list[bytes]) -> list[bytes]:
    """Header lines that data_prep reads, with the folded lines that continue them."""
    kept: list[bytes] = []
    keep = False
    for line in lines:
        keep = keep if line[:1] in (b" ", b"\t") else HEEDED.match(line) is not None
        kept += [line] if keep else []
    return kept


class _UntilDeadline(io.RawIOBase):
    """A socket's reading side that fails at the deadline, even while bytes still drip in."""

    def __init__(self, raw: Any, deadline: float) -> None:
        self._raw = raw
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > self._deadline:
            raise TooSlow("the answer is not whole in the time of one image")
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
