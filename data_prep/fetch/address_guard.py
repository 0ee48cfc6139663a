"""Which machines a list may make us ask: no IP address of this machine, of its networks or of its cloud's metadata.

A list comes from strangers, and so does a redirect: `http://169.254.169.254/` or a name that resolves to 10.0.0.1 would
fetch what only this machine may see. So a name is resolved once, every IP address it resolves to is checked, and the
connection is made to one of these checked addresses: a second look-up could return others.
"""

from __future__ import annotations

import functools
import http.client
import ipaddress
import re
import socket
import ssl
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from data_prep.fetch.http_response import Ask, Response

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], list[tuple[Any, ...]]]
"""Host and port -> what `socket.getaddrinfo` returns for a stream."""

# What IANA's special-purpose registries list as not globally reachable (looked up 2026-11-22). Written out, because
# `ipaddress.is_global` differs from one Python to the next.
_NOT_PUBLIC_V4 = {
    "0.0.0.0/8": "unspecified",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "shared (carrier-grade NAT; holds the metadata address 100.100.100.200)",
    "127.0.0.0/8": "loopback",
    "168.63.129.16/32": "metadata",
    "169.254.0.0/16": "link-local (holds the metadata address 169.254.169.254)",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "reserved (holds the metadata address 192.0.0.192)",
    "192.0.2.0/24": "documentation",
    "192.88.99.0/24": "reserved",
    "192.168.0.0/16": "private",
    "198.18.0.0/15": "benchmarking",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
}
_NOT_PUBLIC_V6 = {
    "::/128": "unspecified",
    "::1/128": "loopback",
    "fe80::/10": "link-local",
    "fec0::/10": "private",
    "fc00::/7": "private (holds the metadata address fd00:ec2::254)",
    "ff00::/8": "multicast",
    "2001::/23": "reserved (Teredo and others)",
    "2001:db8::/32": "documentation",
    "3fff::/20": "documentation",
}
_V4 = [(ipaddress.ip_network(network), what) for network, what in _NOT_PUBLIC_V4.items()]
_V6 = [(ipaddress.ip_network(network), what) for network, what in _NOT_PUBLIC_V6.items()]
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOW_V4 = ipaddress.IPv6Network("::/96")
_LOCAL_NAMES = ("localhost", "localdomain", "local", "internal", "home.arpa", "intranet", "lan")


class PrivateAddress(OSError):
    """The host is, or resolves to, an IP address that no list may ask. An OSError, as connecting raises."""


def why_not_public(address: Ip) -> str | None:
    """The kind of an IP address that cannot be reached from the whole internet; None for a public one."""
    if isinstance(address, ipaddress.IPv4Address):
        return next((what for network, what in _V4 if address in network), None)
    if kind := next((what for network, what in _V6 if address in network), None):
        return kind
    embedded = _embedded_v4(address)
    if embedded is not None and (kind := why_not_public(embedded)):
        return f"{kind}, inside an IPv6 address"
    if embedded is not None and (address.ipv4_mapped or address in _NAT64):
        return None
    return None if address in _PUBLIC_V6 else "reserved"


def _embedded_v4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a gateway would extract from it: mapped, compatible, NAT64, 6to4, ISATAP."""
    if address.ipv4_mapped or address in _NAT64 or address in _LOW_V4 or (int(address) >> 32) & 0xFDFFFFFF == 0x5EFE:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour


def spelled_addresses(host: str) -> list[Ip]:
    """Every IP address that some program would read in a host's spelling; none for a name.

    Brackets, a scope id, a trailing dot, upper case and percent-encoding are removed first; `2130706433`, `0x7f.1`,
    `0177.0.0.1` and `127.1` are read as by C's inet_aton, and parts with leading zeros as decimals too.
    """
    text = unquote(unquote(host)).strip().lower().removeprefix("[").partition("]")[0].rstrip(".")
    try:
        text = text.encode("idna").decode("ascii") if not text.isascii() else text
    except UnicodeError:
        return []
    try:
        return [ipaddress.ip_address(text)]
    except ValueError:
        parts = text.split(".")
    if len(parts) > 4 or not all(re.fullmatch(r"0x[0-9a-f]*|[0-9]+", part) for part in parts):
        return []
    readings = {_aton(parts, octal=True), _aton(parts, octal=False)}
    return sorted(ipaddress.IPv4Address(value) for value in readings if value is not None)


def _aton(parts: list[str], *, octal: bool) -> int | None:
    """The number that one to four parts stand for, the last one filling the rest; None when one is too large."""
    value = 0
    for index, part in enumerate(parts):
        if part.startswith("0x"):
            number = int(part[2:] or "0", 16)
        elif octal and len(part) > 1 and part.startswith("0"):
            if not re.fullmatch("[0-7]+", part):
                return None
            number = int(part, 8)
        else:
            number = int(part)
        last = index == len(parts) - 1
        bits = 8 * (4 - index) if last else 8
        if number >= 1 << bits:
            return None
        value = (value << bits) | number if last else (value << 8) | number
    return value


def check_spelling(host: str) -> None:
    """Refuse what needs no resolver to be known: private literals, and names of the local network.

    Raises: PrivateAddress.
    """
    for address in spelled_addresses(host):
        if kind := why_not_public(address):
            raise PrivateAddress(f"{host} is {address}: {kind}")
    name = unquote(host).lower().rstrip(".")
    if spelled_addresses(host) or ":" in name:
        return
    if "." not in name or any(name.endswith(f".{local}") for local in _LOCAL_NAMES):
        raise PrivateAddress(f"{host} is a name of the local network")


def checked_addresses(host: str, port: int, resolve: Resolver | None = None) -> list[tuple[Any, ...]]:
    """The IP addresses of a host, in `getaddrinfo`'s form, when every one of them is public.

    Raises: PrivateAddress; what the resolver raises (socket.gaierror).
    """
    check_spelling(host)
    found = (resolve or _getaddrinfo)(host, port)
    for *_, sockaddr in found:
        if kind := why_not_public(ipaddress.ip_address(sockaddr[0])):
            raise PrivateAddress(f"{host} resolves to {sockaddr[0]}: {kind}")
    return found


def connect_checked(
    address: tuple[str, int], timeout: Any = None, source_address: Any = None, *, resolve: Resolver | None = None
) -> socket.socket:
    """Replaces `socket.create_connection`: connects to the first checked IP address that accepts, and to no other."""
    host, port = address
    failed: OSError = OSError(f"{host} resolves to nothing")
    for family, kind, protocol, _, sockaddr in checked_addresses(host, port, resolve):
        connection = socket.socket(family, kind, protocol)
        try:
            if isinstance(timeout, int | float):
                connection.settimeout(timeout)
            connection.connect(sockaddr)
        except OSError as error:
            connection.close()
            failed = error
        else:
            return connection
    raise failed


class _Connection(http.client.HTTPConnection):
    """A connection whose response is read as browsers read it, up to a deadline.

    Args:
        guarded: connect to checked IP addresses only.
        deadline: of `time.monotonic`, for the whole response.
    """

    def __init__(self, *arguments: Any, guarded: bool, deadline: float, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.response_class = functools.partial(Response, deadline=deadline)  # type: ignore[assignment]
        if guarded:
            self._create_connection = connect_checked


class _SecureConnection(_Connection, http.client.HTTPSConnection):
    """The certificate is checked against the name as usual; only the socket under it is ours."""


class HTTPHandler(urllib.request.HTTPHandler):
    """http, for the first request and for every redirect; guarded unless private IP addresses are allowed."""

    def __init__(self, *, allow_private: bool) -> None:
        super().__init__()
        self._allow_private = allow_private

    def http_open(self, req: Ask) -> http.client.HTTPResponse:  # type: ignore[override]
        guarded = not self._allow_private and not _goes_through_a_proxy(req)
        return self.do_open(_Connection, req, guarded=guarded, deadline=req.deadline)  # type: ignore[arg-type]


class HTTPSHandler(urllib.request.HTTPSHandler):
    """The same for https. One context for all: reading the certificates of the system takes milliseconds."""

    def __init__(self, *, allow_private: bool) -> None:
        super().__init__()
        self._allow_private = allow_private
        self._certificates = ssl.create_default_context()
        self._certificates.set_alpn_protocols(["http/1.1"])

    def https_open(self, req: Ask) -> http.client.HTTPResponse:  # type: ignore[override]
        guarded = not self._allow_private and not _goes_through_a_proxy(req)
        settings = {"guarded": guarded, "deadline": req.deadline, "context": self._certificates}
        return self.do_open(_SecureConnection, req, **settings)  # type: ignore[arg-type]


def _goes_through_a_proxy(request: urllib.request.Request) -> bool:
    """Whether a proxy is asked, which looks the host up for us and may be private; checks the host as far as it can."""
    if not (request.has_proxy() or getattr(request, "_tunnel_host", None)):
        return False
    host = urlsplit(request.full_url).hostname or ""
    check_behind_proxy(host)
    return True


_resolver_seen = {"alive": False, "dead": False}


def check_behind_proxy(host: str, resolve: Resolver | None = None) -> None:
    """Check the spelling, and, if it resolves here, the host's IP addresses: behind a proxy there is often no resolver.

    A resolver that has never answered is not asked again: each look-up would wait for its time-out.
    Raises: PrivateAddress.
    """
    check_spelling(host)
    if _resolver_seen["dead"]:
        return
    try:
        checked_addresses(host, 80, resolve)
        _resolver_seen["alive"] = True
    except socket.gaierror as error:
        _resolver_seen["dead"] = error.errno == socket.EAI_AGAIN and not _resolver_seen["alive"]


def _getaddrinfo(host: str, port: int) -> list[tuple[Any, ...]]:
    return list(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))
