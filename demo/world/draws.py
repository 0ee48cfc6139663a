"""Random draws that are the same on every machine and in every Python."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draws:
    """A stream of draws, one for each tuple of names.

    Only `random.random()` is used: Python guarantees that its sequence never changes for a seed, and guarantees nothing
    for `choice`, `sample` or `shuffle`, nor does numpy for the methods of its Generator.

    Args:
        names: what the stream is for, such as the world's seed, a split and the number of a scene.
    """

    def __init__(self, *names: str | int) -> None:
        self._random = random.Random(" ".join(map(str, names))).random

    def below(self, n: int) -> int:
        """A whole number from 0 to n - 1."""
        return int(self._random() * n)

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both possible."""
        return low + self.below(high - low + 1)

    def chance(self, share: float) -> bool:
        """True in this share of draws."""
        return self._random() < share

    def choice(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[T], n: int) -> list[T]:
        """`n` different ones of the items, in random order."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(n)]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All items in random order."""
        return self.sample(items, len(items))
