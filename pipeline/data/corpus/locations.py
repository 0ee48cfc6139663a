"""Where samples lie in their shards, in the form that workers get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class SampleRef:
    """The location and the name of one sample. Small, because workers get these instead of the manifest."""

    path: str
    """The tar: a path, or a URL."""
    shard_bytes: int
    """Size of the whole tar."""
    offset: int
    """Byte offset of the sample's first tar header."""
    length: int
    """Bytes from there to the end of its last padded member."""
    key: str
    """The sample's key in its shard."""
    name: str
    """The name that logs record and that seeds the sample's random draws: the key, or `source/key` when several
    manifests are read together, because keys are unique only within one."""


@dataclass(frozen=True, slots=True)
class Locations(Sequence[SampleRef]):
    """The SampleRefs of many samples, as columns: cheap to make and to send to a worker."""

    paths: list[str]
    """The shards of these samples."""
    sizes: list[int]
    """Size in bytes of each of those."""
    prefixes: list[str]
    """For each of those, the prefix that makes a key a name."""
    shards: np.ndarray
    """(n,) which of `paths` each sample lies in."""
    offsets: np.ndarray
    """(n,) int64 bytes."""
    lengths: np.ndarray
    """(n,) int64 bytes."""
    keys: list[str]
    """(n,)"""

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> SampleRef:  # type: ignore[override]  # slices are not needed
        shard, key = self.shards[index], self.keys[index]
        return SampleRef(
            path=self.paths[shard],
            shard_bytes=self.sizes[shard],
            offset=int(self.offsets[index]),
            length=int(self.lengths[index]),
            key=key,
            name=self.prefixes[shard] + key,
        )
