"""Listed addresses -> addresses that can be asked for, or the reason why not."""

from __future__ import annotations

from urllib.parse import quote, urlsplit, urlunsplit

_PATH_SAFE = "/%:@!$&'()*+,;=~-._"


class BadUrl(ValueError):
    """`str()` is `reason: detail`, with reason empty_url, bad_url or unsupported_scheme."""


def normalise_url(text: str) -> str:
    """Percent-encode what must be, keep what already is; only http and https.

    img2dataset hands addresses to urllib as they are, and urllib refuses a space or an accent.

    Raises: BadUrl.
    """
    text = text.strip()
    if not text:
        raise BadUrl("empty_url: no address")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadUrl(f"bad_url: {_shown(text)}: {error}") from error
    if parts.scheme and parts.scheme not in ("http", "https"):
        raise BadUrl(f"unsupported_scheme: {_shown(parts.scheme)}")
    if not parts.scheme or not host:
        raise BadUrl(f"bad_url: {_shown(text)} has no host")
    try:
        ascii_host = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise BadUrl(f"bad_url: {_shown(host)}: {error}") from error
    if any(character.isspace() or character in '<>"\\^`{|}' for character in ascii_host):
        raise BadUrl(f"bad_url: {_shown(text)}: not a host name")
    netloc = f"[{ascii_host}]" if ":" in ascii_host else ascii_host
    netloc += f":{port}" if port is not None else ""
    return urlunsplit((parts.scheme, netloc, quote(parts.path, _PATH_SAFE), quote(parts.query, _PATH_SAFE + "?"), ""))


def _shown(text: str) -> str:
    return repr(text[:100])
