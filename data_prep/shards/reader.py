"""Opens a shard and reads it from end to end, strictly (`samples.shard`), with the hash of all its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from data_prep.output.storage import is_gone, open_regular
from samples.shard import StoredSample, shard_samples
from samples.tar import TarDamage


class TarUnread(TarDamage):
    """A tar that is there and cannot be read: a permission, or a disk. What it holds is not known."""


def read_samples(path: Path, digest: Any = None) -> Iterator[StoredSample]:
    """Samples in file order.

    Args:
        digest: a hashlib object that is fed every byte; that of the whole tar when the last sample has been taken.
    Raises: TarDamage on anything that a shard does not have, and where there is no regular file; TarUnread.
    """
    try:
        with open_regular(path) as file:
            size = path.stat().st_size
            yield from shard_samples(file if digest is None else cast(IO[bytes], _HashedFile(file, digest)), size)
    except OSError as error:
        raise (TarDamage if is_gone(error) else TarUnread)(f"cannot be read: {error.strerror or error}") from error


class _HashedFile:
    """What reading forward needs of a file, hashing on the way."""

    def __init__(self, file: IO[bytes], digest: Any) -> None:
        self._file = file
        self._digest = digest

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        return data
