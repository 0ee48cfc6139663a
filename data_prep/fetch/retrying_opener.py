"""How a download worker asks for one image: http(s) only, bounded in time and size, retried after a pause.

img2dataset calls `urllib.request.urlopen` and repeats any failed request at once. Installed with
`urllib.request.install_opener`, this opener handles those calls instead; img2dataset itself is not changed.
"""

from __future__ import annotations

import http.client
import io
import random
import re
import sys
import time
import urllib.error
import urllib.request
import urllib.response
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from data_prep.fetch import address_guard
from data_prep.fetch.content_encoding import CannotDecode, decode
from data_prep.fetch.failure import FetchFailed, why
from data_prep.fetch.host_limits import HostLimiter
from data_prep.fetch.redirects import Visit

READ_BYTES = 1 << 16
MOST_SPREAD = 1.5


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    timeout_s: float = 10.0
    """Longest silence of a server: while connecting, or between two pieces of a response."""
    image_timeout_s: float = 60.0
    """Longest time of one attempt at one image, so that a server that drips bytes holds up nothing."""
    retries: int = 2
    """Further attempts after a failure that may be temporary: a time-out, a broken connection, 408, 425, 429 or 5xx."""
    pause_s: float = 1.0
    """Before the first further attempt; doubles with each. A server's Retry-After lengthens it, up to `max_pause_s`."""
    max_pause_s: float = 30.0
    """Longest pause, before the random factor of up to 1.5."""
    max_image_bytes: int = 50_000_000
    """Larger bodies are not read to their end, as they arrive or decompressed."""
    allow_private_addresses: bool = False
    """Whether hosts on loopback, in private networks and the like may be asked."""

    @property
    def worst_case_s(self) -> float:
        """No row takes longer than this, including the wait while its host's back-off lasts."""
        asking = (self.retries + 1) * (self.image_timeout_s + self.timeout_s)
        return asking + (self.retries + 1) * MOST_SPREAD * self.max_pause_s


class RetryingOpener(urllib.request.OpenerDirector):
    """An opener whose `open` returns the whole body in memory, or raises `FetchFailed`.

    Only http and https have a handler, so neither a listed URL nor a redirect reaches file:, ftp: or data:.
    `data_prep.fetch.address_guard` decides which hosts may be asked, `data_prep.fetch.redirects` where redirects lead.
    """

    def __init__(
        self, limits: FetchLimits, hosts: HostLimiter | None = None, excluded_domains: frozenset[str] = frozenset()
    ) -> None:
        super().__init__()
        self._limits = limits
        self._hosts = hosts or HostLimiter(per_host=sys.maxsize)
        self._excluded = excluded_domains
        self._direct = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.UnknownHandler(),
            address_guard.HTTPHandler(allow_private=limits.allow_private_addresses),
            address_guard.HTTPSHandler(allow_private=limits.allow_private_addresses),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
        ):
            self._direct.add_handler(handler)

    def open(self, fullurl: Any, data: Any = None, timeout: Any = None) -> urllib.response.addinfourl:
        """As `OpenerDirector.open`; `data` and `timeout` are ignored, since the limits set the time-outs."""
        try:
            given = fullurl if isinstance(fullurl, urllib.request.Request) else urllib.request.Request(fullurl)
            host = (urlsplit(given.full_url).hostname or "").rstrip(".")
        except ValueError as error:
            raise why(error) from error
        with self._hosts.slot(host):
            for attempt in range(self._limits.retries + 1):
                try:
                    return self._open_once(given.full_url, dict(given.headers))
                except FetchFailed as failure:
                    pause_s = self._pause_s(attempt, failure.retry_after_s)
                    if failure.retry_after_s or failure.reason == "http_429":
                        self._hosts.back_off(host, pause_s)
                    if not failure.may_pass or attempt == self._limits.retries:
                        raise
                    time.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def _pause_s(self, attempt: int, retry_after_s: float) -> float:
        pause = max(self._limits.pause_s * 2.0**attempt, retry_after_s)
        # Spread out, or all threads that met the same overloaded host would come back at once.
        return min(pause, self._limits.max_pause_s) * random.uniform(1.0, MOST_SPREAD)

    def _open_once(self, url: str, headers: dict[str, str]) -> urllib.response.addinfourl:
        """One attempt: the first request and every redirect, all within the time of one image."""
        deadline = time.monotonic() + self._limits.image_timeout_s
        try:
            visit = Visit(url, headers, deadline, self._excluded)
            while True:
                request = visit.request()
                try:
                    with self._direct.open(request, timeout=self._limits.timeout_s) as response:
                        body = self._read(response)
                        return urllib.response.addinfourl(
                            io.BytesIO(body), response.headers, visit.url, response.status
                        )
                except urllib.error.HTTPError as answer:
                    with answer:
                        visit.follow(answer, request)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise why(error) from error

    def _read(self, response: Any) -> bytes:
        """The whole body, decoded. Memory: twice `max_image_bytes` where it came compressed."""
        coding = response.headers.get("Transfer-Encoding", "identity").strip().lower()
        if coding not in ("chunked", "identity", ""):
            raise FetchFailed("unsupported_encoding", f"Transfer-Encoding: {coding}", may_pass=False)
        limit = self._limits.max_image_bytes
        announced = _announced(response.headers)
        if announced is not None and announced > limit:
            raise FetchFailed("body_too_large", f"{announced} bytes announced", may_pass=False)
        body = bytearray()
        # read1: one piece as it arrives. read(n) would wait for all n bytes, however slowly they drip.
        while piece := response.read1(READ_BYTES):
            body += piece
            if len(body) > limit:
                raise FetchFailed("body_too_large", f"more than {limit} bytes", may_pass=False)
        if not response.chunked and announced is not None and len(body) < announced:
            raise FetchFailed("incomplete_body", f"{len(body)} of {announced} bytes", may_pass=True)
        if response.status == 206 and not _whole(response.headers.get("Content-Range", ""), len(body)):
            raise FetchFailed("incomplete_body", "a part only, though the whole was asked for", may_pass=True)
        try:
            return decode(bytes(body), response.headers.get_all("Content-Encoding", []), limit)
        except CannotDecode as error:
            raise FetchFailed(error.reason, error, may_pass=error.reason == "incomplete_body") from None


def _announced(headers: Any) -> int | None:
    """Content-Length, where it is a possible length of a body."""
    text = headers.get("Content-Length", "").strip()
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _whole(content_range: str, num_bytes: int) -> bool:
    """Whether a Content-Range covers all of an image of that many bytes."""
    return re.fullmatch(rf"bytes 0-{num_bytes - 1}/(\*|{num_bytes})", content_range.strip()) is not None
