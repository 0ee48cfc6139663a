"""Why an image could not be fetched: a reason to count, and a detail that is the same in every run."""

from __future__ import annotations

import http.client
import socket
import ssl
import urllib.error
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from data_prep.fetch import address_guard
from data_prep.fetch.http_response import TooSlow
from data_prep.lists.web_url import BadUrl
from samples.quote import quote, without_logins, without_memory_addresses

WORTH_RETRYING = {408, 425, 429, 500, 502, 503, 504}
MAX_DETAIL = 200


class FetchFailed(Exception):
    """`str()` is `reason: detail`, which img2dataset records as the row's error message."""

    def __init__(self, reason: str, detail: object, *, may_pass: bool, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{reason}: {shown(detail)}")
        self.reason = reason
        self.may_pass = may_pass
        self.retry_after_s = retry_after_s


def shown(detail: object) -> str:
    """The detail on one line, cut, without passwords of URLs and memory addresses."""
    return quote(without_memory_addresses(without_logins(" ".join(str(detail).split()))), MAX_DETAIL)


def why(error: Exception) -> FetchFailed:
    """The failure that an exception of urllib means, and whether a further attempt may succeed."""
    if isinstance(error, urllib.error.HTTPError):
        return _why_http(error)
    cause: object = error
    if isinstance(error, urllib.error.URLError):
        cause = error.reason
    if isinstance(cause, str):  # raised by UnknownHandler only
        return FetchFailed("unsupported_scheme", cause, may_pass=False)
    if isinstance(cause, address_guard.PrivateAddress):
        return FetchFailed("private_address", cause, may_pass=False)
    if isinstance(cause, TooSlow):
        return FetchFailed("too_slow", cause, may_pass=False)
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
    if isinstance(cause, BadUrl):
        reason, _, detail = str(cause).partition(": ")
        return FetchFailed(reason, detail, may_pass=False)
    if isinstance(cause, ValueError):  # http.client.InvalidURL, or a URL that urllib cannot parse
        return FetchFailed("bad_url", cause, may_pass=False)
    if isinstance(cause, http.client.HTTPException):
        return FetchFailed("bad_http", f"{type(cause).__name__}: {cause}", may_pass=True)
    return FetchFailed("connection_failed", f"{type(cause).__name__}: {cause}", may_pass=True)


def _why_http(error: urllib.error.HTTPError) -> FetchFailed:
    return FetchFailed(
        f"http_{error.code}",
        error.msg,
        may_pass=error.code in WORTH_RETRYING,
        retry_after_s=retry_after_s(error.headers.get("Retry-After", "") if error.headers else ""),
    )


def retry_after_s(text: str) -> float:
    """Seconds to wait, from a number of seconds or a date (RFC 9110); 0 for anything else."""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):  # TypeError: a date without a zone
        return 0.0
