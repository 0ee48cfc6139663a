"""How a download worker asks for one image: http(s) only, bounded in time and size, retried after a pause.

img2dataset calls `urllib.request.urlopen` and repeats a failed request at once, whatever the failure. Installed with
`urllib.request.install_opener`, this opener answers those calls instead; img2dataset itself stays as it is.
"""

from __future__ import annotations

import http.client
import io
import random
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
import urllib.response
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from data_prep import address_guard
from data_prep.exclusion import excluded_domain
from data_prep.host_turns import HostTurns

READ_BYTES = 1 << 16
WORTH_RETRYING = {408, 425, 429, 500, 502, 503, 504}
MOST_SPREAD = 1.5


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    timeout_s: float = 10.0
    """Longest silence of a server: connecting, or between two pieces of an answer."""
    image_timeout_s: float = 60.0
    """Longest one attempt at one image may take in all, so that a server that drips bytes is left behind."""
    retries: int = 2
    """Further attempts after a failure that may pass: a time-out, a broken connection, 408, 425, 429 or 5xx."""
    pause_s: float = 1.0
    """Before the first further attempt; doubles with each. A server's Retry-After lengthens it, up to `max_pause_s`."""
    max_pause_s: float = 30.0
    """Longest pause; by chance up to 1.5 times as long."""
    max_image_bytes: int = 50_000_000
    """Larger answers are left behind."""
    allow_private_addresses: bool = False
    """Whether hosts on loopback, in private networks and the like may be asked."""

    @property
    def worst_case_s(self) -> float:
        """No row takes longer than this, the time included that its host is left alone before its turn."""
        asking = (self.retries + 1) * (self.image_timeout_s + self.timeout_s)
        return asking + (self.retries + 1) * MOST_SPREAD * self.max_pause_s


class FetchFailed(Exception):
    """`str()` is `reason: detail`, which img2dataset records as the row's error message."""

    def __init__(self, reason: str, detail: object, *, may_pass: bool, retry_after_s: float = 0.0) -> None:
        shown = " ".join(str(detail).split())[:200].encode("ascii", "backslashreplace").decode()
        super().__init__(f"{reason}: {shown}")
        self.reason = reason
        self.may_pass = may_pass
        self.retry_after_s = retry_after_s


class PatientOpener(urllib.request.OpenerDirector):
    """An opener whose `open` returns the whole body in memory, or raises `FetchFailed`.

    Only http and https have a handler, so neither a listed address nor a redirect reaches file:, ftp: or data:. Which
    hosts may be asked is `data_prep.address_guard`'s.
    """

    def __init__(
        self, limits: FetchLimits, turns: HostTurns | None = None, excluded_domains: frozenset[str] = frozenset()
    ) -> None:
        super().__init__()
        self._limits = limits
        self._turns = turns or HostTurns(per_host=sys.maxsize)
        self._direct = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.UnknownHandler(),
            address_guard.HTTPHandler(allow_private=limits.allow_private_addresses),
            address_guard.HTTPSHandler(allow_private=limits.allow_private_addresses),
            urllib.request.HTTPDefaultErrorHandler(),
            _Redirects(excluded_domains),
            urllib.request.HTTPErrorProcessor(),
        ):
            self._direct.add_handler(handler)

    def open(self, fullurl: Any, data: Any = None, timeout: Any = None) -> urllib.response.addinfourl:
        """As `OpenerDirector.open`; `data` and `timeout` are the limits' business and are ignored."""
        try:
            given = fullurl if isinstance(fullurl, urllib.request.Request) else urllib.request.Request(fullurl)
            host = (urlsplit(given.full_url).hostname or "").rstrip(".")
        except ValueError as error:
            raise _why(error) from error
        with self._turns.turn(host):
            for attempt in range(self._limits.retries + 1):
                try:
                    return self._open_once(urllib.request.Request(given.full_url, headers=dict(given.headers)))
                except FetchFailed as failure:
                    pause_s = self._pause_s(attempt, failure.retry_after_s)
                    if failure.retry_after_s or failure.reason == "http_429":
                        self._turns.leave_alone(host, pause_s)
                    if not failure.may_pass or attempt == self._limits.retries:
                        raise
                    time.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def _pause_s(self, attempt: int, retry_after_s: float) -> float:
        pause = max(self._limits.pause_s * 2.0**attempt, retry_after_s)
        # Spread out, or all threads that met the same overloaded host come back together.
        return min(pause, self._limits.max_pause_s) * random.uniform(1.0, MOST_SPREAD)

    def _open_once(self, request: urllib.request.Request) -> urllib.response.addinfourl:
        deadline = time.monotonic() + self._limits.image_timeout_s
        try:
            with self._direct.open(request, timeout=self._limits.timeout_s) as response:
                body = self._read(response, deadline)
                return urllib.response.addinfourl(io.BytesIO(body), response.headers, response.url, response.status)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _why(error) from error

    def _read(self, response: Any, deadline: float) -> bytes:
        announced = response.headers.get("Content-Length", "")
        if announced.isdigit() and int(announced) > self._limits.max_image_bytes:
            raise FetchFailed("body_too_large", f"{announced} bytes announced", may_pass=False)
        body = bytearray()
        # read1: one piece as it arrives. read(n) would wait for all n bytes, however slowly they drip.
        while piece := response.read1(READ_BYTES):
            body += piece
            if len(body) > self._limits.max_image_bytes:
                raise FetchFailed("body_too_large", f"more than {self._limits.max_image_bytes} bytes", may_pass=False)
            if time.monotonic() > deadline:
                detail = f"{len(body)} bytes after {self._limits.image_timeout_s:g} s"
                raise FetchFailed("too_slow", detail, may_pass=False)
        if not response.chunked and announced.isdigit() and len(body) < int(announced):
            raise FetchFailed("incomplete_body", f"{len(body)} of {announced} bytes", may_pass=True)
        return bytes(body)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """As urllib follows them, but not to an excluded domain."""

    def __init__(self, excluded_domains: frozenset[str]) -> None:
        self._excluded = excluded_domains

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if found := excluded_domain(urlsplit(newurl).hostname or "", self._excluded):
            raise FetchFailed("excluded_domain", f"a redirect to {found}", may_pass=False)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _why(error: Exception) -> FetchFailed:
    """The failure's reason, and whether it may pass."""
    if isinstance(error, urllib.error.HTTPError):
        return _why_http(error)
    cause: object = error
    if isinstance(error, urllib.error.URLError):
        cause = error.reason
    if isinstance(cause, str):  # UnknownHandler's only way to say so
        return FetchFailed("unsupported_scheme", cause, may_pass=False)
    if isinstance(cause, address_guard.PrivateAddress):
        return FetchFailed("private_address", cause, may_pass=False)
    if isinstance(cause, TimeoutError):
        return FetchFailed("timed_out", cause, may_pass=True)
    if isinstance(cause, socket.gaierror):
        return FetchFailed("unknown_host", cause, may_pass=cause.errno == socket.EAI_AGAIN)
    if isinstance(cause, ssl.SSLError):
        return FetchFailed("tls_error", cause, may_pass=False)
    if isinstance(cause, http.client.IncompleteRead):
        return FetchFailed("incomplete_body", cause, may_pass=True)
    if isinstance(cause, ConnectionRefusedError):
        return FetchFailed("connection_refused", cause, may_pass=True)
    if isinstance(cause, ValueError):  # http.client.InvalidURL, or an address that urllib cannot parse
        return FetchFailed("bad_url", cause, may_pass=False)
    return FetchFailed("connection_failed", f"{type(cause).__name__}: {cause}", may_pass=True)


def _why_http(error: urllib.error.HTTPError) -> FetchFailed:
    if 300 <= error.code < 400:
        return FetchFailed("bad_redirect", error.msg, may_pass=False)
    return FetchFailed(
        f"http_{error.code}",
        error.msg,
        may_pass=error.code in WORTH_RETRYING,
        retry_after_s=_retry_after_s(error.headers.get("Retry-After", "") if error.headers else ""),
    )


def _retry_after_s(text: str) -> float:
    """A number of seconds or a date, as RFC 9110 has it; 0 for neither."""
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # TypeError: a date without a zone
        return 0.0
