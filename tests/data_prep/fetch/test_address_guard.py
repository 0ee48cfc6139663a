"""No list and no redirect reaches this machine, its networks or its cloud's metadata. Nothing here leaves loopback."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep.fetch import address_guard
from data_prep.fetch.address_guard import (
    PrivateAddress,
    check_behind_proxy,
    check_spelling,
    checked_addresses,
    connect_checked,
    spelled_addresses,
    why_not_public,
)
from data_prep.fetch.failure import FetchFailed
from data_prep.fetch.retrying_opener import FetchLimits, RetryingOpener
from data_prep.lists.web_url import normalise_url
from tests.support.hostile_images import jpeg
from tests.support.image_server import ImageServer, Reply

PRIVATE = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255"),
    *("127.0.0.1", "127.0.0.2", "127.255.255.254", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255"),
    *("192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.7"),
    *("203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16"),
    *("::", "::1", "::2", "fe80::1", "fe80::1%lo", "febf::1", "fec0::1", "fc00::1", "fdff::1", "fd00:ec2::254"),
    *("ff02::1", "ff0e::1", "100::1", "2001::1", "2001:db8::1", "3fff::1", "5f00::1", "64:ff9b:1::1", "4000::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::8.8.8.8"),
    *("64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:a00:1::5"),
    *("2600::5efe:127.0.0.1", "2600::200:5efe:10.0.0.1"),
]
PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"),
    *("128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0"),
    *("198.17.255.255", "198.20.0.0", "223.255.255.255", "2600::1", "2606:4700:4700::1111", "2a00:1450::1"),
    *("::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1", "2001:200::1"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_on_the_public_internet_is_named(address: str) -> None:
    assert why_not_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_the_neighbours_of_private_ranges_are_public(address: str) -> None:
    assert why_not_public(ipaddress.ip_address(address)) is None


SPELLINGS = {
    "127.0.0.1": "127.0.0.1",
    "127.0.0.1.": "127.0.0.1",
    "127.1": "127.0.0.1",
    "127.0.1": "127.0.0.1",
    "2130706433": "127.0.0.1",
    "0x7f000001": "127.0.0.1",
    "0X7F.0x0.0.1": "127.0.0.1",
    "0x7f.1": "127.0.0.1",
    "017700000001": "127.0.0.1",
    "0177.0.0.1": "127.0.0.1",
    "0177.0x0.1": "127.0.0.1",
    "00000177.0.0.01": "127.0.0.1",
    "0": "0.0.0.0",
    "0x": "0.0.0.0",
    "0xa9fea9fe": "169.254.169.254",
    "2852039166": "169.254.169.254",
    "169.16689662": "169.254.169.254",
    "0251.0376.0251.0376": "169.254.169.254",
    "%31%32%37.0.0.1": "127.0.0.1",
    "%2531%2532%2537.0.0.1": "127.0.0.1",
    "１２７.0.0.1": "127.0.0.1",
    "127。0。0。1": "127.0.0.1",
    "①②⑦.0.0.1": "127.0.0.1",
    "[::1]": "::1",
    "::1": "::1",
    "[::FFFF:127.0.0.1]": "::ffff:127.0.0.1",
    "[::ffff:7f00:1]": "::ffff:127.0.0.1",
    "0:0:0:0:0:0:0:1": "::1",
    "[FE80::1%25eth0]": "fe80::1%eth0",
}


@pytest.mark.parametrize("host", SPELLINGS)
def test_a_private_address_is_known_in_every_spelling(host: str) -> None:
    """Decimal, octal, hexadecimal, short, encoded, in other digits; then refused without a look-up."""
    assert ipaddress.ip_address(SPELLINGS[host]) in spelled_addresses(host)
    with pytest.raises(PrivateAddress):
        check_spelling(host)


def test_an_ambiguous_spelling_is_refused_in_either_reading() -> None:
    """010.8.8.8 is 8.8.8.8 to one program and 10.8.8.8 to another; 012.0.0.1 is 10.0.0.1 in octal."""
    for host in ("010.8.8.8", "012.0.0.1", "0127.0.0.1"):
        assert len(spelled_addresses(host)) == 2
        with pytest.raises(PrivateAddress):
            check_spelling(host)


@pytest.mark.parametrize(
    "host", ["LOCALHOST", "localhost.", "a.localhost", "printer", "metadata.google.internal", "x.local"]
)
def test_names_of_the_local_network_are_refused_without_a_look_up(host: str) -> None:
    def never(host: str, port: int) -> list[tuple[Any, ...]]:
        raise AssertionError("was looked up")

    with pytest.raises(PrivateAddress, match="local network"):
        checked_addresses(host, 80, never)


@pytest.mark.parametrize(
    "host", ["a.example", "8.8.8.8", "134744072", "0x08080808", "1.2.3.4.5", "999.1.1.1", "[2600::1]"]
)
def test_other_hosts_may_be_asked(host: str) -> None:
    check_spelling(host)


def answers(*addresses: str) -> address_guard.Resolver:
    def resolve(host: str, port: int) -> list[tuple[Any, ...]]:
        return [
            (socket.AF_INET6 if ":" in text else socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port))
            for text in addresses
        ]

    return resolve


@pytest.mark.parametrize(
    "resolved", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["2600::1", "::ffff:192.168.0.1"], ["fe80::1%eth0"]]
)
def test_a_name_is_refused_when_any_of_its_ip_addresses_is_private(resolved: list[str]) -> None:
    """One private IP address among public ones is how a name reaches inside on the second attempt."""
    with pytest.raises(PrivateAddress, match=r"pictures\.example resolves to"):
        checked_addresses("pictures.example", 80, answers(*resolved))
    assert len(checked_addresses("pictures.example", 80, answers("8.8.8.8", "2600::1"))) == 2


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let loopback pass the checks, so that an allowed connection reaches a server of the test."""
    rest = [(network, what) for network, what in address_guard._V4 if what != "loopback"]
    monkeypatch.setattr(address_guard, "_V4", rest)


@pytest.mark.usefixtures("loopback_is_public")
def test_the_connection_goes_to_the_ip_address_that_was_checked() -> None:
    """The resolver would answer a second question differently, so it is asked once; a dead IP address is skipped."""
    asked = []
    with ImageServer() as server, socket.socket() as closed:
        closed.bind(("127.0.0.3", 0))
        port = int(server.address.rpartition(":")[2])

        def resolve(host: str, wanted: int) -> list[tuple[Any, ...]]:
            asked.append(host)
            return answers("127.0.0.3", "127.0.0.1")(host, wanted) if len(asked) == 1 else answers("10.0.0.1")(host, 1)

        with connect_checked(("pictures.example", port), 5.0, resolve=resolve) as connection:
            assert connection.getpeername() == ("127.0.0.1", port) and connection.gettimeout() == 5.0
    assert asked == ["pictures.example"]


def refused(opener: RetryingOpener, address: str) -> str:
    with pytest.raises(FetchFailed) as failed:
        opener.open(address)
    return str(failed.value)


@pytest.fixture
def opener(monkeypatch: pytest.MonkeyPatch) -> RetryingOpener:
    """Guarded, and without a proxy."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return RetryingOpener(FetchLimits(retries=0))


def test_loopback_is_not_asked(opener: RetryingOpener) -> None:
    """By its usual IP address, an alias, a number, a name; over https too; and not one connection is made."""
    with ImageServer() as server:
        port = server.address.rpartition(":")[2]
        for host in ("127.0.0.1", "127.0.0.2", "[::1]", "2130706433", "localhost", "[::ffff:127.0.0.1]", "0"):
            for scheme in ("http", "https"):
                address = normalise_url(f"{scheme}://{host}:{port}/x.jpg")
                assert refused(opener, address).startswith("private_address: "), address
        assert server.hits.total() == 0


@pytest.mark.usefixtures("loopback_is_public")
def test_a_redirect_is_checked_like_the_first_url(opener: RetryingOpener) -> None:
    """127.0.0.1 is allowed in this test; the host to which it redirects is not."""
    with ImageServer() as server:
        good = server.add("/good.jpg", Reply(jpeg()))
        for target in ("http://[::1]:80/", "http://10.0.0.1/", "https://169.254.169.254/latest/", "http://0x0a000001/"):
            server.add("/moved", Reply(status=302, headers={"Location": target}))
            assert refused(opener, server.url("/moved")).startswith("private_address: "), target
        server.add("/moved", Reply(status=302, headers={"Location": good}))
        assert opener.open(server.url("/moved")).read() == jpeg()


def test_private_addresses_are_asked_when_allowed() -> None:
    opener = RetryingOpener(FetchLimits(retries=0, allow_private_addresses=True))
    with ImageServer() as server:
        assert opener.open(server.add("/x.jpg", Reply(jpeg()))).read() == jpeg()


def test_behind_a_proxy_the_host_is_checked_and_the_proxy_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is on loopback and is used; private hosts are refused before it is asked, by spelling or by name."""
    monkeypatch.setattr(address_guard, "_getaddrinfo", answers("8.8.8.8"))
    with ImageServer() as proxy:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy.address)
        monkeypatch.setenv("no_proxy", "")
        opener = RetryingOpener(FetchLimits(retries=0))
        assert refused(opener, "http://pictures.example/a.jpg").startswith("http_403: ")
        assert refused(opener, "https://pictures.example/a.jpg").startswith("connection_failed: ")
        assert proxy.foreign == ["GET http://pictures.example/a.jpg", "CONNECT pictures.example:443"]
        for host in ("127.0.0.1", "10.0.0.1", "2852039166", "localhost", "[::1]"):
            for scheme in ("http", "https"):
                assert refused(opener, f"{scheme}://{host}/").startswith("private_address: "), host
        monkeypatch.setattr(address_guard, "_getaddrinfo", answers("192.168.0.1"))
        assert refused(opener, "http://inside.example/").startswith("private_address: ")
        assert len(proxy.foreign) == 2


def test_behind_a_proxy_a_dead_resolver_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is often none; each look-up would wait for its time-out, for every image."""
    asked = []

    def dead(host: str, port: int) -> list[tuple[Any, ...]]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(address_guard, "_resolver_seen", {"alive": False, "dead": False})
    for number in range(3):
        check_behind_proxy(f"{number}.example", dead)
    assert asked == ["0.example"]
    with pytest.raises(PrivateAddress):
        check_behind_proxy("10.0.0.1", dead)


@pytest.fixture
def tls_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Port of an https server whose certificate, trusted here, is of pictures.example."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subject = ("-subj", "/CN=pictures.example", "-addext", "subjectAltName=DNS:pictures.example")
    words = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject)
    subprocess.run([*words, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ImageServer() as server:
        server.add("/x.jpg", Reply(jpeg()))
        server.speak_tls(context)
        yield int(server.address.rpartition(":")[2])


@pytest.mark.usefixtures("loopback_is_public")
def test_a_certificate_is_checked_against_the_name_not_the_ip_address(
    tls_server: int, opener: RetryingOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resolved here, connected by IP address: the certificate must still be that of the name that was listed."""
    monkeypatch.setattr(address_guard, "_getaddrinfo", answers("127.0.0.1"))
    opener = RetryingOpener(FetchLimits(retries=0))
    assert opener.open(f"https://pictures.example:{tls_server}/x.jpg").read() == jpeg()
    assert refused(opener, f"https://another.example:{tls_server}/x.jpg").startswith("tls_error: ")
