"""A lane's samples and their locations, in the form that workers get; which lanes a rank takes. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from albef.errors import ConfigError
from pipeline.config.sections import divisors
from pipeline.data.corpus.protocol import SampleLocation


@dataclass(frozen=True, slots=True)
class LaneTask:
    """The samples of a micro-batch. Small enough to send with every step: a worker holds no corpus."""

    step: int
    epoch: int
    lane: int
    size: int
    """B, samples in the micro-batch."""
    locations: Sequence[SampleLocation]
    """The B samples, then the first replacement of each, then the second of each, and so on."""

    @property
    def names(self) -> list[str]:
        """The B samples' names."""
        return [self.locations[index].name for index in range(self.size)]


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
