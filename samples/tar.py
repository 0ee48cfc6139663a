"""Reads tar headers strictly: every number has a limit, every member lies inside the file, every type has a name.

Python's tarfile is for archives that one trusts: a negative size sends it backwards for ever, any size in a PAX header
is believed, and a sparse member of a few bytes reads as gigabytes of zeros. The tars read here come from strangers, and
the trainer must read the same bytes as the command that checked them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import IO

from samples.quote import quote

BLOCK = 512
MAX_NAME_BYTES = 4096
"""Of a member; PATH_MAX of Linux."""
MAX_EXTENSION_BYTES = 1 << 20
"""Of one header that describes the next member. Extended attributes of macOS take some kilobytes."""
MAX_EXTENSIONS = 16
"""Such headers before one member; writers use up to four."""
MAX_ZERO_BYTES = 1 << 26
"""After an end mark; tar pads to 10 KiB. More is a file that was allocated and not written."""

FILE, FOLDER, LABEL = "file", "folder", "volume label"
KINDS = {
    b"0": FILE,
    b"\0": FILE,
    b"7": FILE,
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "character device",
    b"4": "block device",
    b"5": FOLDER,
    b"6": "FIFO",
    b"D": FOLDER,
    b"K": "GNU header with a long link name",
    b"L": "GNU header with a long name",
    b"M": "continued file of another volume",
    b"S": "sparse file",
    b"V": LABEL,
    b"X": "PAX header",
    b"g": "global PAX header",
    b"x": "PAX header",
}
WITHOUT_DATA = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))
"""Types that no data follows, even if their header has a size."""
OCTAL = re.compile(rb" *([0-7]*)(?:[ \0].*)?", re.DOTALL)
PAX_RECORD = re.compile(rb"([0-9]{1,7}) ([^=]{1,4096})=")
MAGIC = slice(257, 263)
USTAR = b"ustar\0"


class TarDamage(Exception):
    """A tar that cannot be read any further.

    Args:
        reason: what is wrong, for people.
        member: the name of the member in question, or of the last one that was read; empty at the beginning.
    """

    def __init__(self, reason: str, member: str = "") -> None:
        super().__init__(reason, member)
        self.reason = reason
        self.member = member

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a header block of 512 bytes."""

    name: str
    """UTF-8; other bytes are surrogates (`surrogateescape`)."""
    type: bytes
    size: int
    """Of the data that follows; 0 or more, and not compared with the file yet."""
    ustar: bool
    """Whether the format is POSIX, as our writer and most others use it, and not GNU's own or Unix V7's."""

    @property
    def kind(self) -> str:
        """FILE, or the name of another type."""
        if self.type in (b"0", b"\0") and self.name.endswith("/"):  # as V7 wrote folders
            return FOLDER
        return KINDS.get(self.type, f"member of unknown type {self.type.decode('latin-1')!a}")


@dataclass(frozen=True, slots=True)
class Member:
    """A member with all headers that describe it."""

    name: str
    kind: str
    """FILE, or the name of another type."""
    start: int
    """Where the data begins."""
    size: int
    end: int
    """Where the next header begins."""
    archive: int = 0
    """Index of its tar in the file, which `cat a.tar b.tar` makes of several: the number of end marks before it."""


def padded(size: int) -> int:
    """Bytes that data of this size takes in a tar."""
    return size + -size % BLOCK


def parse_header(block: bytes, at: int) -> Header:
    """The header in a block of 512 bytes.

    Args:
        at: its offset in the file, for messages.
    Raises: TarDamage when the block or its checksum is none, or its size is no number or negative.
    """
    if len(block) < BLOCK or not _has_its_checksum(block):
        raise TarDamage(f"broken header at byte {at}")
    ustar = block[MAGIC] == USTAR
    name = _text(block[:100])
    if ustar and (prefix := _text(block[345:500])):
        name = f"{prefix}/{name}"
    size = _number(block[124:136])
    if size is None:
        raise TarDamage(f"broken header at byte {at}: the size of {quote(name)} is no number", name)
    if size < 0:
        raise TarDamage(f"broken header at byte {at}: {quote(name)} has a size of {size}", name)
    return Header(name, block[156:157], size, ustar)


def tar_members(file: IO[bytes], size: int) -> Iterator[Member]:
    """The members of any tar, in its order, and of tars that were appended to it.

    The file may be read elsewhere between two members. Memory: one member's headers, `MAX_EXTENSION_BYTES`.

    Args:
        file: opened for reading bytes, seekable.
        size: of the file, in bytes.
    Raises: TarDamage, after the members before the damage. Python's tarfile takes a tar that was cut between members,
        or whose next header is broken, for a whole one; this does not.
    """
    if size < BLOCK:
        raise TarDamage(f"not a readable tar: {size} bytes")
    blocks = _Blocks(file, size)
    at, ended, archive = 0, False, 0
    while not (ended and at == size):
        block = blocks.read(at)
        if block == bytes(BLOCK):
            at, archive, ended = blocks.after_zeros(at), archive + 1, True
            continue
        if not _has_its_checksum(block) and (ended or at == 0):
            what = f"{size - at} bytes after the end mark that are no member" if ended else _what_it_is(block)
            raise TarDamage(what, blocks.last)
        member = replace(_member(blocks, at, block), archive=archive)
        yield member
        at, ended, blocks.last = member.end, False, member.name


def check_inside(name: str, start: int, length: int, size: int) -> None:
    """Raises: TarDamage when data of this length would end behind the file's end."""
    if length > size - start:
        raise TarDamage(f"truncated: {size} bytes, ends inside {quote(name)} of {length} bytes", name)


class _Blocks:
    """A file in blocks."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file = file
        self.size = size
        self.last = ""
        """Name of the last member, for messages."""

    def read(self, at: int) -> bytes:
        self.file.seek(at)
        block = self.file.read(BLOCK)
        if len(block) < BLOCK:
            raise TarDamage(f"truncated: {self.size} bytes and no end mark", self.last)
        return block

    def body(self, header: Header, at: int) -> bytes:
        """The data of a header at `at` that describes the next member."""
        if header.size > MAX_EXTENSION_BYTES:
            raise TarDamage(f"{header.kind} of {header.size} bytes, more than {MAX_EXTENSION_BYTES}", header.name)
        check_inside(header.name, at + BLOCK, header.size, self.size)
        return self.file.read(header.size)

    def after_zeros(self, at: int) -> int:
        """Where the first block begins that is not all zeros, or the file's end."""
        start = at
        self.file.seek(at)
        while at < self.size:
            chunk = self.file.read(1 << 20)
            zeros = len(chunk) - len(chunk.lstrip(b"\0"))
            at += zeros
            if at - start > MAX_ZERO_BYTES:
                raise TarDamage(f"more than {MAX_ZERO_BYTES} zeros at byte {start}", self.last)
            if zeros < len(chunk) or not chunk:
                break
        return at if at == self.size else at - at % BLOCK


@dataclass
class _Described:
    """What the headers before a member state about it."""

    name: str | None = None
    size: int | None = None
    sparse: bool = False
    pax: dict[bytes, bytes] = field(default_factory=dict)


def _member(blocks: _Blocks, at: int, block: bytes) -> Member:
    described = _Described()
    for _ in range(MAX_EXTENSIONS + 1):
        header = parse_header(block, at)
        if header.type not in (b"L", b"K", b"x", b"X", b"g"):
            break
        _describe(described, header, blocks.body(header, at))
        at += BLOCK + padded(header.size)
        block = blocks.read(at)
    else:
        raise TarDamage(f"more than {MAX_EXTENSIONS} headers before one member", header.name)
    name = header.name if described.name is None else described.name
    if len(name) > MAX_NAME_BYTES:
        raise TarDamage(f"a name of {len(name)} characters, more than {MAX_NAME_BYTES}: {quote(name)}", name)
    at += BLOCK
    if header.type == b"S":
        at = _after_sparse_map(blocks, at, block)
    size = header.size if described.size is None else described.size
    if header.type in WITHOUT_DATA:
        size = 0
    check_inside(name, at, size, blocks.size)
    kind = "sparse file" if described.sparse else header.kind
    # The padding of the last member may be cut: what is missing then is the end mark.
    return Member(name, kind, at, size, at + padded(size))


def _describe(described: _Described, header: Header, body: bytes) -> None:
    if header.type == b"L":
        described.name = _text(body)
    elif header.type != b"K":
        records = _pax_records(body, header.name)
        sparse = any(key.startswith(b"GNU.sparse.") or key == b"SCHILY.realsize" for key in records)
        if header.type == b"g" and (sparse or {b"path", b"size"} & records.keys()):
            raise TarDamage("a global PAX header that sets the path or the size of every member", header.name)
        described.sparse |= sparse
        if (name := records.get(b"GNU.sparse.name", records.get(b"path"))) is not None:
            described.name = name.decode("utf-8", "surrogateescape")
        if (size := records.get(b"size")) is not None:
            if not re.fullmatch(rb"[0-9]{1,19}", size):
                raise TarDamage(f"a PAX header gives the size as {quote(ascii(size)[1:])}", header.name)
            described.size = int(size)


def _pax_records(body: bytes, name: str) -> dict[bytes, bytes]:
    """Records of `LENGTH key=value` and a line feed; zeros may follow."""
    records: dict[bytes, bytes] = {}
    at, end = 0, len(body.rstrip(b"\0"))
    while at < end:
        found = PAX_RECORD.match(body, at)
        after = at + int(found[1]) if found else 0
        if found is None or not found.end() < after <= end or body[after - 1 : after] != b"\n":
            raise TarDamage(f"a PAX header with a broken record: {quote(ascii(body[at : at + 40])[1:])}", name)
        records[found[2]] = body[found.end() : after - 1]
        at = after
    return records


def _after_sparse_map(blocks: _Blocks, at: int, block: bytes) -> int:
    """In GNU's first format for sparse files, blocks with more of the map may follow the header, before the data."""
    more = block[482]
    while more:
        more = blocks.read(at)[504]
        at += BLOCK
    return at


def _has_its_checksum(block: bytes) -> bool:
    recorded = _number(block[148:156])
    rest = block[:148] + block[156:]
    total = sum(rest) + 8 * ord(" ")
    if recorded == total:
        return True
    return recorded == total - 256 * sum(byte > 127 for byte in rest)  # old writers summed signed bytes


def _number(digits: bytes) -> int | None:
    """Octal digits, or base 256 where the first bit is set; None when it is neither. No digit at all is 0."""
    if digits[0] & 0x80:
        bits = 8 * len(digits) - 1
        value = int.from_bytes(digits, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if digits[0] & 0x40 else value
    found = OCTAL.fullmatch(digits)
    return None if found is None else int(found[1] or b"0", 8)


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


PACKERS = {
    b"\x1f\x8b": "gzip: `gunzip` makes a plain tar of it",
    b"BZh": "bzip2: `bunzip2` makes a plain tar of it",
    b"\xfd7zXZ\0": "xz: `unxz` makes a plain tar of it",
    b"\x28\xb5\x2f\xfd": "zstd: `unzstd` makes a plain tar of it",
    b"\x04\x22\x4d\x18": "lz4: `unlz4` makes a plain tar of it",
    b"\x1f\x9d": "compress: `uncompress` makes a plain tar of it",
    b"PK\x03\x04": "a zip: `unzip` it, and `tar` what comes out",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive: unpack it, and `tar` what comes out",
    b"Rar!": "a RAR archive: unpack it, and `tar` what comes out",
}


def _what_it_is(block: bytes) -> str:
    """What a file is whose first block is no header."""
    for start, packer in PACKERS.items():
        if block.startswith(start):
            return f"not a readable tar but {packer}"
    return f"not a readable tar: it begins with {ascii(block[:12])[1:]}"
