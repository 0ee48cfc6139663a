"""Answers that every browser takes, and how the others are named: each from a real server on loopback."""

from __future__ import annotations

import gzip
import re
import time
import zlib
from collections.abc import Iterator

import pytest

from data_prep.fetch.failure import FetchFailed, shown
from data_prep.fetch.retrying_opener import FetchLimits, RetryingOpener
from tests.support.hostile_images import jpeg
from tests.support.image_server import ImageServer, Reply

JPEG = jpeg()
LIMIT = 1_000_000
MANY = dict.fromkeys((f"X-Note-{number}" for number in range(500)), "v")
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"


def raw(*headers: str, body: bytes = JPEG, status: str = "HTTP/1.1 200 OK") -> bytes:
    """An answer to the byte; its length only where the headers say so."""
    return "\r\n".join([status, *headers, "Connection: close", "", ""]).encode("latin-1") + body


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def coded(body: bytes, *codings: str) -> Reply:
    return Reply(raw=raw(*(f"Content-Encoding: {coding}" for coding in codings), body=body))


GOOD = {
    "gzip": coded(gzip.compress(JPEG), "gzip"),
    "gzip in upper case and by its old name": coded(gzip.compress(JPEG), "X-GZip"),
    "gzip in two members": coded(gzip.compress(JPEG[:500]) + gzip.compress(JPEG[500:]), "gzip"),
    "gzip with something after it": coded(gzip.compress(JPEG) + b"\0\0\0", "gzip"),
    "deflate, which is zlib": coded(zlib.compress(JPEG), "deflate"),
    "deflate as some servers have it": coded(raw_deflate(JPEG), "deflate"),
    "gzip called deflate": coded(gzip.compress(JPEG), "deflate"),
    "two layers": coded(gzip.compress(zlib.compress(JPEG)), "deflate, gzip"),
    "two layers in two headers": coded(gzip.compress(zlib.compress(JPEG)), "deflate", "gzip"),
    "identity": coded(JPEG, "identity"),
    "no coding at all": coded(JPEG, ""),
    "what is no coding": coded(JPEG, "none, utf-8, binary"),
    "announced as gzip and sent as it is": coded(JPEG, "gzip"),
    "announced as deflate and sent as it is": coded(JPEG, "deflate"),
    "chunked and gzip": Reply(
        raw=raw(
            "Transfer-Encoding: chunked",
            "Content-Encoding: gzip",
            body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(gzip.compress(JPEG, mtime=0)), gzip.compress(JPEG, mtime=0)),
        )
    ),
    "early hints": Reply(raw=EARLY + raw()),
    "continue, processing and early hints": Reply(
        raw=b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + EARLY * 3 + raw()
    ),
    "early hints with many headers": Reply(raw=EARLY[:-2] + b"Link: <x>; rel=preload\r\n" * 300 + b"\r\n" + raw()),
    "five hundred headers": Reply(JPEG, headers=MANY),
    "a header of 100 KiB": Reply(JPEG, headers={"X-Long": "x" * 100_000}),
    "a folded header": Reply(raw=raw("X-Note: a", " Content-Length: 3", "\tand more")),
    "line feeds alone": Reply(raw=raw().replace(b"\r\n\r\n", b"\n\n", 1)),
    "HTTP/1.0 without a length": Reply(raw=raw(status="HTTP/1.0 200 OK")),
    "no reason phrase": Reply(raw=raw(status="HTTP/1.1 200")),
    "a length that is none": Reply(raw=raw("Content-Length: \xb2")),
    "a length of five thousand digits": Reply(raw=raw("Content-Length: " + "x9" * 2500)),
    "a negative length": Reply(raw=raw("Content-Length: -5")),
    "the whole, called a part": Reply(
        raw=raw(f"Content-Range: bytes 0-{len(JPEG) - 1}/{len(JPEG)}", status="HTTP/1.1 206 Partial Content")
    ),
    "non-authoritative": Reply(JPEG, status=203),
}
BAD = {
    "unsupported_encoding: br": coded(JPEG, "br"),
    "unsupported_encoding: zstd": coded(gzip.compress(JPEG), "zstd, gzip"),
    "unsupported_encoding: 5 codings": coded(JPEG, ", ".join(["gzip"] * 5)),
    "unsupported_encoding: Transfer-Encoding: gzip, chunked": Reply(raw=raw("Transfer-Encoding: gzip, chunked")),
    "incomplete_body: the gzip data ends early": coded(gzip.compress(JPEG)[:-20], "gzip"),
    "incomplete_body: the deflate data ends early": coded(zlib.compress(JPEG)[:-20], "deflate"),
    "incomplete_body: the gzip data is damaged: ": coded(gzip.compress(JPEG)[:200] + bytes(500), "gzip"),
    "incomplete_body: a part only": Reply(
        raw=raw("Content-Range: bytes 0-99/5000", body=JPEG[:100], status="HTTP/1.1 206 Partial Content")
    ),
    "incomplete_body: IncompleteRead": Reply(raw=raw("Transfer-Encoding: chunked", body=b"5000\r\n" + JPEG[:100])),
    "body_too_large: more than 1000000 bytes in (gzip)": coded(gzip.compress(bytes(3 * LIMIT)), "gzip"),
    "body_too_large: more than 1000000 bytes in (two layers)": coded(
        zlib.compress(zlib.compress(bytes(100 * LIMIT))), "deflate, deflate"
    ),
    "body_too_large: 999999999999999999 bytes": Reply(raw=raw("Content-Length: 999999999999999999")),
    "bad_http: HTTPException: more than 262144 bytes of headers": Reply(raw=EARLY, endless=True),
    "bad_http: BadStatusLine: SSH-2.0-OpenSSH": Reply(raw=b"SSH-2.0-OpenSSH\r\n"),
    r"bad_http: BadStatusLine: \x1b[31m": Reply(raw=b"\x1b[31m" + JPEG),
    "bad_http: LineTooLong": Reply(raw=raw("Content-Type: " + "x" * 70_000)),
    "connection_failed: ConnectionResetError: the connection was closed inside": Reply(raw=raw()[:30]),
    "connection_failed: ConnectionResetError: the connection was closed without": Reply(raw=b""),
    "http_101": Reply(raw=raw(status="HTTP/1.1 101 Switching Protocols")),
    "http_304": Reply(raw=raw(status="HTTP/1.1 304 Not Modified", body=b"")),
    "http_302": Reply(raw=raw(status="HTTP/1.1 302 Found", body=b"")),
    "http_503": Reply(raw=raw("Retry-After: \xb2", status="HTTP/1.1 503 Busy", body=b"")),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ImageServer]:
    with ImageServer() as server:
        yield server


def opener(**limits: float) -> RetryingOpener:
    return RetryingOpener(FetchLimits(retries=0, allow_private_addresses=True, max_image_bytes=LIMIT, **limits))


@pytest.mark.parametrize("name", GOOD)
def test_what_browsers_take_is_taken(server: ImageServer, name: str) -> None:
    """The same JPEG, to the byte, however the server wrapped it."""
    assert opener().open(server.add("/good", GOOD[name])).read() == JPEG


@pytest.mark.parametrize("reason", BAD)
def test_what_is_not_taken_has_its_true_reason(server: ImageServer, reason: str) -> None:
    """Bombs are stopped at --max-image-bytes, endless interim answers at a quarter of a megabyte."""
    with pytest.raises(FetchFailed) as failed:
        opener().open(server.add("/bad", BAD[reason]))
    assert str(failed.value).startswith(reason.partition(" (")[0])


def test_headers_that_drip_end_at_the_deadline(server: ImageServer) -> None:
    """A byte each tenth of a second is never silent for long, and would keep a thread for hours."""
    began = time.monotonic()
    with pytest.raises(FetchFailed, match="too_slow"):
        opener(image_timeout_s=0.5).open(server.add("/drip", Reply(raw=raw(), drip_s=0.1)))
    assert time.monotonic() - began < 5


def test_an_opt_out_is_seen_behind_any_number_of_headers(server: ImageServer) -> None:
    """Of 500 headers those that are looked at arrive, each of them."""
    headers = MANY | {"X-Robots-Tag": "noai", "Content-Type": "image/jpeg"}
    answer = opener().open(server.add("/robots", Reply(JPEG, headers=headers)))
    assert answer.headers.get_all("X-Robots-Tag") == ["noai"]


# Redirects


def test_a_cookie_goes_back_to_its_host_within_one_row(server: ImageServer) -> None:
    """Consent pages set a cookie and redirect to themselves. The next row begins without it."""
    wanted = Reply(JPEG, required=("Cookie", "seen=1"))
    asked = Reply(status=302, headers={"Location": "/cookie", "Set-Cookie": "seen=1; Path=/; HttpOnly"})
    url = server.add("/cookie", asked, wanted, asked, wanted)
    one = opener()
    assert one.open(url).read() == JPEG and one.open(url).read() == JPEG
    cookies = [headers.get("Cookie") for path, headers in server.requests if path == "/cookie"]
    assert cookies == [None, "seen=1", None, "seen=1"]


def test_cookies_and_passwords_stay_with_their_host(server: ImageServer) -> None:
    """localhost is another host than 127.0.0.1, and another port another origin: neither is sent what the first was."""
    with ImageServer() as other:
        there = other.add("/there", Reply(JPEG)).replace("127.0.0.1", "localhost")
        headers = {"Location": there, "Set-Cookie": "seen=1; Path=/"}
        url = server.add("/away", Reply(status=302, headers=headers))
        assert opener().open(url.replace("//", "//user:secret@")).read() == JPEG
        assert server.requests[-1][1]["Authorization"] == "Basic dXNlcjpzZWNyZXQ="  # base64 of user:secret
        (_, sent), *_ = other.requests
        assert "Cookie" not in sent and "Authorization" not in sent


def test_a_password_goes_along_within_its_origin_and_may_stand_in_a_redirect(server: ImageServer) -> None:
    """It is sent as a browser does; percent-encoded letters are decoded first, in UTF-8."""
    target = server.add("/inner", Reply(JPEG, required=("Authorization", "Basic YcO2OnDDpHM6QHM=")))  # aö:päs:@s
    url = server.add("/outer", Reply(status=301, headers={"Location": "inner"}))
    assert opener().open(url.replace("//", "//a%C3%B6:p%C3%A4s%3A%40s@")).read() == JPEG
    target = target.replace("//", "//a%C3%B6:p%C3%A4s%3A@s@")
    moved = server.add("/moved", Reply(status=301, headers={"Location": target}))
    assert opener().open(moved).read() == JPEG


@pytest.mark.parametrize(
    "location",
    [
        "/a%20b/%C3%A9.jpg",
        "/a b/é.jpg",
        "a b/é.jpg?",
        "//{host}/a b/%C3%A9.jpg#part",
        "HTTP://{host}/a%20b/é.jpg",
        "  http://{host}/a b/é.jpg",
    ],
)
def test_a_redirect_may_be_written_in_many_ways(server: ImageServer, location: str) -> None:
    """Relative, without a scheme, in capitals, with blanks, letters that are no ASCII and a fragment."""
    server.add("/a%20b/%C3%A9.jpg", Reply(JPEG))
    where = location.format(host=server.address.removeprefix("http://"))
    head = f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode()
    assert opener().open(server.add("/moved", Reply(raw=head))).read() == JPEG


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:image/png;base64,AAAA", "http://", "http://[::1", ""]
)
def test_a_redirect_to_what_is_not_asked_is_refused(server: ImageServer, location: str) -> None:
    """Another scheme, no host, brackets that do not close; an empty one leads to itself until it is too often."""
    with pytest.raises(FetchFailed, match="bad_redirect: "):
        opener().open(server.add("/moved", Reply(status=302, headers={"Location": location})))
    assert server.hits["/moved"] < 100


def test_a_password_is_shown_nowhere(server: ImageServer) -> None:
    """Neither in the failure of the listed URL nor in that of one that a redirect named."""
    url = server.add("/denied", Reply(status=401)).replace("//", "//user:secret@")
    moved = server.add("/moved", Reply(status=302, headers={"Location": "http://user:secret@ho st:x/"}))
    for address in (url, moved, "http://user:secret@", "http://user:sec/ret@host", "http://u:sec ret@[::1"):
        with pytest.raises(FetchFailed) as failed:
            opener().open(address)
        assert "ret" not in str(failed.value).removeprefix("bad_redirect"), address


def test_details_are_the_same_in_every_run() -> None:
    """No memory address of an object, one line, no control characters, cut."""
    detail = shown(f"{object()} <ssl.SSLSocket object at 0x7f3d2c> at 0x1234abcd\x1b[31m\n" + "x" * 5000)
    assert not re.search("0x[0-9a-f]{4,}", detail) and "\x1b" not in detail and "\n" not in detail
    assert detail.startswith("<object object> <ssl.SSLSocket object>") and len(detail) == 200
