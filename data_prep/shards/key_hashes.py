"""Keys that stand in more than one shard of a corpus, found with 8 bytes a sample."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from data_prep.errors import UnfinishedError
from data_prep.shards.reader import read_samples
from samples.tar import TarDamage


def key_hash(key: str) -> bytes:
    """8 bytes, to find keys that are used twice."""
    return hashlib.blake2b(key.encode(), digest_size=8).digest()


def repeated_keys(root: Path, hashes: dict[str, bytes]) -> list[tuple[str, str, str]]:
    """Each key that is used again, in every shard but the first: (shard, key, first shard), as paths below `root`.

    Args:
        hashes: of each shard, by its path, the `key_hash` of its keys. Shards whose hashes meet are opened.

    Raises: UnfinishedError when such a shard, whole a moment ago, cannot be read any more.
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
