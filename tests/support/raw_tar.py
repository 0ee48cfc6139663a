"""Tars put together byte by byte, so that a header can hold what no tool would write."""

from __future__ import annotations

BLOCK = 512
END = bytes(2 * BLOCK)


def header(name: str | bytes, size: int | bytes = 0, kind: bytes = b"0", *, magic: bytes = b"ustar\x0000") -> bytes:
    """One header with a right checksum.

    Args:
        size: a number, written in octal; or the twelve bytes of the field.
    """
    block = bytearray(BLOCK)
    name = name.encode() if isinstance(name, str) else name
    block[: len(name)] = name
    block[100:124] = b"0000644\0" + b"0000000\0" * 2
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[136:148] = b"00000000000\0"
    block[156:157] = kind
    block[257 : 257 + len(magic)] = magic
    return with_checksum(block)


def with_checksum(block: bytes | bytearray) -> bytes:
    """The block with the checksum that its other bytes have."""
    block = bytearray(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def member(name: str | bytes, data: bytes, kind: bytes = b"0", *, magic: bytes = b"ustar\x0000") -> bytes:
    """A header and its data."""
    return header(name, len(data), kind, magic=magic) + padded(data)


def base256(value: int) -> bytes:
    """A size field as GNU writes a number too large for octal; negative ones too."""
    if value < 0:
        return (value & ((1 << 96) - 1)).to_bytes(12, "big")
    return b"\x80" + value.to_bytes(11, "big")


def pax_record(key: str, value: bytes | str) -> bytes:
    """`LENGTH key=value` and a line feed, the length counting itself."""
    rest = b" " + key.encode() + b"=" + (value.encode() if isinstance(value, str) else value) + b"\n"
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    """A PAX header with these records."""
    return member("PaxHeaders/x", b"".join(records), kind)
