"""A job cut into parts, so that several machines make the shards of one list side by side.

A part is a share of the shards, not of the rows: shard names, keys and bytes are those of a job that was never cut,
each shard belongs to exactly one part, and the number of parts may change from one run to the next.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from base.errors import UsageError


@dataclass(frozen=True)
class Part:
    """Part `number` (from 1) of `count`: every `count`-th shard, so that a list sorted by host is spread evenly."""

    number: int = 1
    count: int = 1

    @property
    def is_whole(self) -> bool:
        return self.count == 1

    @property
    def name(self) -> str:
        """Name of the part's folder in `.work`."""
        return f"part-{self.number:05d}-of-{self.count:05d}"

    def shards(self, num_shards: int) -> range:
        """Numbers of the part's shards, ascending; none for a part beyond the number of shards."""
        return range(self.number - 1, num_shards, self.count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


WHOLE = Part()


def parse_part(text: str) -> Part:
    """`3/16` -> the third of sixteen.

    Raises: UsageError for anything else.
    """
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--part {text} is not a part", "write I/N, from 1/N to N/N: --part 3/16")
    return Part(int(match[1]), int(match[2]))
