"""The tar members of a shard: KEY.jpg then KEY.json, plain USTAR files and nothing else.

`verify` reads a shard from end to end, the trainer a sample by its byte range. Both use this file, so that the trainer
reads the same bytes that `verify` accepted.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from samples.json_text import is_unicode
from samples.tar import BLOCK, FILE, TarDamage, check_inside, padded, parse_header

MAX_IMAGE_BYTES = 1 << 28
"""Of a stored JPEG: 256 MiB. An encoded photograph of `MAX_PIXELS` takes less."""
MAX_RECORD_BYTES = 1 << 20
"""Of a sample's JSON: 1 MiB."""
MAX_END_BYTES = 20 * BLOCK
"""Zeros at the end of a shard: the end mark, padded to tar's record of 10 KiB."""


class NoPair(TarDamage):
    """Plain members that are not in pairs."""


@dataclass(frozen=True, slots=True)
class StoredSample:
    """A sample as stored in a shard."""

    key: str
    offset: int
    """Of the image's tar header."""
    length: int
    """From there to the end of the JSON's padding."""
    image: bytes
    meta: bytes


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    stem: str
    extension: str
    offset: int
    end: int
    data: bytes


def shard_samples(file: IO[bytes], size: int) -> Iterator[StoredSample]:
    """All samples of a shard, in its order. Memory: one sample.

    Args:
        file: opened for reading bytes, at its beginning; only read forward.
        size: of the file, in bytes.
    Raises: TarDamage on anything that does not belong into a shard: another header than USTAR's of a plain file, a
        member that is not KEY.jpg or KEY.json or is too large, half a pair, or no end mark.
    """
    image: _Member | None = None
    at, last = 0, ""
    while (block := _header_block(file, size, last)) != bytes(BLOCK):
        member = _member(file, block, at, size)
        at, last = member.end, member.name
        if (sample := _pair(image, member)) is not None:
            yield sample
        image = member if sample is None else None
    _check_pair_ended(image)
    _check_end(file.read(MAX_END_BYTES + 1), last)


def sample_of_range(data: bytes) -> StoredSample:
    """The one sample whose headers and members are `data`.

    Raises: TarDamage, as `shard_samples`; also on half a sample, and on more than one.
    """
    file, size = io.BytesIO(data), len(data)
    image = _member(file, _header_block(file, size, ""), 0, size)
    _pair(None, image)
    if image.end >= size:
        _check_pair_ended(image)
    record = _member(file, _header_block(file, size, image.name), image.end, size)
    sample = _pair(image, record)
    if sample is None or record.end != size:
        raise TarDamage("more than one sample in the range of one", record.name)
    return sample


def _header_block(file: IO[bytes], size: int, last: str) -> bytes:
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise TarDamage(f"truncated tar: {size} bytes and no end mark", last)
    return block


def _member(file: IO[bytes], block: bytes, at: int, size: int) -> _Member:
    header = parse_header(block, at)
    name = header.name
    if header.kind != FILE:
        raise TarDamage(f"foreign member: {header.kind}, not a plain file", name)
    if not header.ustar or header.type != b"0":
        raise TarDamage("foreign member: its header is not USTAR's of a plain file", name)
    stem, _, extension = name.partition(".")
    if not stem or extension not in ("jpg", "json") or "/" in name or not is_unicode(name):
        raise TarDamage("foreign member: only KEY.jpg and KEY.json belong in a shard", name)
    limit = MAX_IMAGE_BYTES if extension == "jpg" else MAX_RECORD_BYTES
    start, length = at + BLOCK, padded(header.size)
    check_inside(name, start, length, size)
    if header.size > limit:
        raise TarDamage(f"{header.size} bytes, more than {limit}", name)
    return _Member(name, stem, extension, at, start + length, file.read(length)[: header.size])


def _pair(image: _Member | None, member: _Member) -> StoredSample | None:
    """The sample that `member` completes; None where it is an image, the first half of the next one."""
    if member.extension == "jpg":
        _check_pair_ended(image)
        return None
    if image is None:
        raise NoPair(".json without its image", member.name)
    if image.stem != member.stem:
        _check_pair_ended(image)
    return StoredSample(image.stem, image.offset, member.end - image.offset, image.data, member.data)


def _check_pair_ended(image: _Member | None) -> None:
    if image is not None:
        raise NoPair("image without its .json", image.name)


def _check_end(rest: bytes, last: str) -> None:
    """Check `rest`, the bytes after the first block of zeros."""
    if len(rest) < BLOCK:
        raise TarDamage("truncated tar: the end mark is cut", last)
    if rest.strip(b"\0") or len(rest) > MAX_END_BYTES:
        raise TarDamage("bytes after the tar's end mark", last)
