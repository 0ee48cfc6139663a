"""Reads a shard strictly: the members the contract allows, with their place in the file, or the damage found."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

BLOCK = tarfile.BLOCKSIZE


class ShardDamage(Exception):
    """The tar cannot be read on from here; `sample` is the last member seen."""

    def __init__(self, reason: str, sample: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sample = sample


@dataclass(frozen=True)
class StoredSample:
    key: str
    offset: int
    """Of the image's tar header."""
    length: int
    """From there to the end of the JSON's padding."""
    image: bytes
    meta: bytes


@dataclass(frozen=True)
class _Member:
    name: str
    offset: int
    end: int
    data: bytes


def read_samples(path: Path, digest: Any = None) -> Iterator[StoredSample]:
    """Samples in file order. Python's tarfile takes a tar that was cut between members for a whole one; this does not.

    Args:
        digest: a hashlib object that is fed every byte; that of the whole tar when the last sample has been taken.
    Raises: ShardDamage on a truncated tar, a member that is not KEY.jpg or KEY.json, or a pair that is not a pair.
    """
    pending: _Member | None = None
    for member in _members(path, digest):
        stem, dot, extension = member.name.partition(".")
        if not stem or dot + extension not in (".jpg", ".json") or "/" in member.name:
            raise ShardDamage("foreign member: only KEY.jpg and KEY.json belong in a shard", member.name)
        if extension == "jpg":
            if pending is not None:
                raise ShardDamage("image without its .json", pending.name)
            pending = member
        elif pending is None or pending.name != f"{stem}.jpg":
            raise ShardDamage(
                "image without its .json" if pending else ".json without its image", (pending or member).name
            )
        else:
            yield StoredSample(stem, pending.offset, member.end - pending.offset, pending.data, member.data)
            pending = None
    if pending is not None:
        raise ShardDamage("image without its .json", pending.name)


def _members(path: Path, digest: Any) -> Iterator[_Member]:
    last = ""
    size = path.stat().st_size
    with path.open("rb") as file:
        read = _reading(file, digest)
        while True:
            offset = file.tell()
            header = read(BLOCK)
            if len(header) < BLOCK:
                raise ShardDamage(f"truncated tar: {size} bytes and no end mark", last)
            if header == bytes(BLOCK):
                return _check_end(read, last)
            try:
                info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
            except (tarfile.HeaderError, UnicodeDecodeError) as error:
                raise ShardDamage(f"broken tar header at byte {offset}: {error}", last) from error
            if not info.isreg():
                raise ShardDamage("foreign member: not a regular file", info.name)
            padding = -info.size % BLOCK
            if info.size + padding > size - file.tell():
                raise ShardDamage(f"truncated tar: {size} bytes, ends inside {info.name}", info.name)
            data = read(info.size)
            read(padding)
            last = info.name
            yield _Member(info.name, offset, file.tell(), data)


def _reading(file: IO[bytes], digest: Any) -> Callable[[int], bytes]:
    if digest is None:
        return file.read

    def read(size: int) -> bytes:
        data = file.read(size)
        digest.update(data)
        return data

    return read


def _check_end(read: Callable[[int], bytes], last: str) -> None:
    rest = read(tarfile.RECORDSIZE + 1)
    if len(rest) < BLOCK:
        raise ShardDamage("truncated tar: the end mark is cut", last)
    if rest.strip(b"\0") or len(rest) > tarfile.RECORDSIZE:
        raise ShardDamage("bytes after the tar's end mark", last)
