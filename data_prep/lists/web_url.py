"""Listed URLs -> URLs that can be requested, or the reason why not; and the passwords in them."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from samples.quote import quote as shown

MAX_HOST = 253
"""Characters of a host name, dots included (RFC 1035)."""
_PATH_SAFE = "/%:@!$&'()*+,;=~-._"


class BadUrl(ValueError):
    """`str()` is `reason: detail`, with reason empty_url, bad_url or unsupported_scheme."""


def normalise_url(text: str) -> str:
    """Percent-encode what must be, keep what already is; http and https only.

    img2dataset passes URLs to urllib as they are, and urllib refuses a space or an accent. The fragment is dropped, and
    so is `user:password@`, which `login_of` returns.

    Raises: BadUrl.
    """
    text = text.strip()
    if not text:
        raise BadUrl("empty_url: no URL")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadUrl(f"bad_url: {_shown(text)}: {_shown(str(error))}") from error
    if parts.scheme and parts.scheme not in ("http", "https"):
        raise BadUrl(f"unsupported_scheme: {_shown(parts.scheme)}")
    if not parts.scheme or not host:
        raise BadUrl(f"bad_url: {_shown(text)} has no host")
    if len(host) > MAX_HOST:
        raise BadUrl(f"bad_url: {_shown(host)}: a host name of {len(host)} letters")
    try:
        ascii_host = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise BadUrl(f"bad_url: {_shown(host)}: {error}") from error
    if any(character.isspace() or character in '<>"\\^`{|}' for character in ascii_host):
        raise BadUrl(f"bad_url: {_shown(text)}: not a host name")
    netloc = f"[{ascii_host}]" if ":" in ascii_host else ascii_host
    netloc += f":{port}" if port is not None else ""
    path = parts.path or ("/" if parts.query else "")  # urllib would request `?query` without a path
    return urlunsplit((parts.scheme, netloc, quote(path, _PATH_SAFE), quote(parts.query, _PATH_SAFE + "?"), ""))


def login_of(text: str) -> str | None:
    """`user:password` of a URL, percent-decoded, which a browser would send as Basic authentication; or None."""
    try:
        login, at, _ = urlsplit(text.strip()).netloc.rpartition("@")
    except ValueError:
        return None
    user, _, password = login.partition(":")
    return f"{unquote(user)}:{unquote(password)}" if at else None


def with_login(url: str, login: str | None) -> str:
    """The URL with its `user:password@` put back, as `login_of` returned it."""
    if login is None or not url:
        return url
    scheme, _, rest = url.partition("://")
    user, _, password = login.partition(":")
    return f"{scheme}://{quote(user, '')}:{quote(password, '')}@{rest}"


def redirect_target(base: str, location: str) -> str:
    """The URL of a Location header: relative to `base` or not, in UTF-8 or with bytes of another encoding.

    Args:
        location: as http.client returns it, one character for each byte.
    Raises: BadUrl.
    """
    octets = location.encode("latin-1", "replace")
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        text = "".join(chr(octet) if octet < 128 else f"%{octet:02X}" for octet in octets)
    try:
        return urljoin(base, text.strip())
    except ValueError as error:
        raise BadUrl(f"bad_url: {_shown(text)}: {_shown(str(error))}") from error


def _shown(text: str) -> str:
    """A URL for a message. Text before an @ may be a password; in a URL that cannot be parsed, even in its path."""
    return f"'{shown(re.sub('//.*@', '//***@', text, flags=re.DOTALL))}'"
