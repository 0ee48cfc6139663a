"""Decompresses bodies that a server compressed without being asked to, within the size limit of one image."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

KNOWN = {"gzip", "x-gzip", "deflate"}
UNSUPPORTED = {"br", "zstd", "compress", "x-compress", "dcb", "dcz"}
MAX_LAYERS = 4
GZIP_MAGIC = b"\x1f\x8b"


class CannotDecode(Exception):
    """`reason` is that of the failure: unsupported_encoding, body_too_large or incomplete_body."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def decode(body: bytes, headers: Iterable[str], max_bytes: int) -> bytes:
    """The body without its codings.

    A body that does not match its header is kept as it is, and so is one whose header names no coding (`utf-8`,
    `none`): both are common, and whether the body is an image is checked later.

    Args:
        body: as it arrived.
        headers: the values of all Content-Encoding headers.
        max_bytes: most that any layer may be decoded to.
    Raises: CannotDecode.
    """
    codings = [name for value in headers for part in value.split(",") if (name := part.strip().lower())]
    layers = [name for name in codings if name in KNOWN | UNSUPPORTED]
    if len(layers) > MAX_LAYERS:
        raise CannotDecode("unsupported_encoding", f"{len(layers)} codings on top of each other")
    for name in reversed(layers):
        if name in UNSUPPORTED:
            raise CannotDecode("unsupported_encoding", name)
        body = _inflate(body, name, max_bytes)
    return body


def _inflate(body: bytes, name: str, max_bytes: int) -> bytes:
    bits = _window_bits(body, name)
    if not bits:
        return body
    decoded = bytearray()
    try:
        while True:
            stream = zlib.decompressobj(bits)
            decoded += stream.decompress(body, max_bytes + 1 - len(decoded))
            if len(decoded) > max_bytes:
                raise CannotDecode("body_too_large", f"more than {max_bytes} bytes in {len(body)} of {name}")
            if not stream.eof:
                raise CannotDecode("incomplete_body", f"the {name} data ends early")
            body = stream.unused_data
            if bits < zlib.MAX_WBITS or not body.startswith(GZIP_MAGIC):  # gzip may have several members
                return bytes(decoded)
    except zlib.error as error:
        if bits < 0:  # raw deflate has no magic number: this body was never compressed
            return body
        raise CannotDecode("incomplete_body", f"the {name} data is damaged: {error}") from None


def _window_bits(body: bytes, name: str) -> int:
    """zlib's window bits for this body; 0 when it does not match the header."""
    if body.startswith(GZIP_MAGIC):
        return 16 + zlib.MAX_WBITS
    if name != "deflate" or len(body) < 2:
        return 0
    zlib_header = body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
    return zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS
