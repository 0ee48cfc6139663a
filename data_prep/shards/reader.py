"""Opens a shard and reads it from end to end, strictly (`samples.shard`), with the hash of all its bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from data_prep.errors import UnfinishedError
from data_prep.output.storage import is_gone, open_regular
from samples.shard import StoredSample, shard_samples
from samples.tar import TarDamage


class TarUnread(TarDamage):
    """A tar that exists and cannot be read: a permission, or a disk. Its content is not known."""


def read_samples(path: Path, digest: Any = None) -> Iterator[StoredSample]:
    """Samples in file order.

    Args:
        digest: a hashlib object that gets every byte; it is that of the whole tar after the last sample.
    Raises: TarDamage on anything that does not belong into a shard, or when there is no regular file; TarUnread.
    """
    try:
        with open_regular(path) as file:
            size = path.stat().st_size
            yield from shard_samples(file if digest is None else cast(IO[bytes], _HashedFile(file, digest)), size)
    except OSError as error:
        raise (TarDamage if is_gone(error) else TarUnread)(f"cannot be read: {error.strerror or error}") from error


class _HashedFile:
    """The part of a file's interface that reading forward needs; it hashes what is read."""

    def __init__(self, file: IO[bytes], digest: Any) -> None:
        self._file = file
        self._digest = digest

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        return data


def key_hash(key: str) -> bytes:
    """8 bytes of a key, to find keys that are used twice."""
    return hashlib.blake2b(key.encode(), digest_size=8).digest()


def repeated_keys(root: Path, hashes: dict[str, bytes]) -> list[tuple[str, str, str]]:
    """(shard, key, first shard) for each use of a key after its first, as paths below `root`.

    Args:
        hashes: the `key_hash`es of a shard's keys, by the shard's path. Shards that share a hash are opened.

    Raises: UnfinishedError when such a shard, whole a moment ago, can no longer be read.
    """
    arrays = {path: np.frombuffer(packed, dtype=np.uint64) for path, packed in hashes.items()}
    if not arrays:
        return []
    together = np.sort(np.concatenate(list(arrays.values())))
    repeated = np.unique(together[1:][together[1:] == together[:-1]])
    if not len(repeated):
        return []
    first: dict[str, str] = {}
    again = []
    for path, array in arrays.items():
        if not np.isin(array, repeated).any():
            continue
        try:
            for sample in read_samples(root / path):
                if sample.key in first:
                    again.append((path, sample.key, first[sample.key]))
                elif np.frombuffer(key_hash(sample.key), dtype=np.uint64)[0] in repeated:
                    first[sample.key] = path
        except TarDamage as damage:
            raise UnfinishedError(
                f"{root / path} changed while it was verified: {damage.reason}",
                "verify again once nothing writes there",
            ) from damage
    return again
