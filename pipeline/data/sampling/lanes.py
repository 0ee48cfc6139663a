"""What a lane reads: its samples and where they lie, as workers are told; and which lanes a rank takes. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from albef.errors import ConfigError
from pipeline.config.sections import divisors


@dataclass(frozen=True, slots=True)
class SampleRef:
    """Where one sample lies, and what it is called. Small: workers get these instead of the manifest."""

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
    """The name by which the sample is recorded and its random draws are seeded: the key, or `source/key` when several
    manifests are read together (keys are unique only within one)."""


@dataclass(frozen=True, slots=True)
class Locations(Sequence[SampleRef]):
    """The SampleRefs of many samples, as columns: cheap to make and to send to a worker."""

    paths: list[str]
    """The shards that occur."""
    sizes: list[int]
    """Bytes of each of those."""
    prefixes: list[str]
    """For each of those, what goes before a key in a name."""
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


@dataclass(frozen=True, slots=True)
class LaneTask:
    """Which samples make up a micro-batch. Small enough to send with every step: a worker holds no manifest."""

    step: int
    epoch: int
    lane: int
    size: int
    """B, samples in the micro-batch."""
    locations: Locations
    """The B samples, then the first understudy of each, then the second of each, and so on."""

    @property
    def names(self) -> list[str]:
        """The B samples' names."""
        return [self.locations[place].name for place in range(self.size)]


def lanes_of_rank(rank: int, world_size: int, num_lanes: int) -> range:
    """The lanes (micro-batches of the global batch) that a rank takes, as accumulation steps.

    Raises: ConfigError when the ranks do not divide the lanes.
    """
    if num_lanes % world_size:
        raise ConfigError(
            f"{num_lanes} lanes cannot be shared evenly by {world_size} ranks",
            f"start {' or '.join(map(str, divisors(num_lanes)))} ranks",
        )
    share = num_lanes // world_size
    return range(rank * share, (rank + 1) * share)
