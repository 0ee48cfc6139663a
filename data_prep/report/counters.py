"""Counting in bounded memory: the commonest of many names, and histograms with fixed edges."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence


class CommonCounter:
    """Counts names and keeps the commonest `capacity` of them (Misra and Gries, 1982, in batches).

    A count is never too high, and too low by at most `missed`: 0 until more than twice `capacity` distinct names were
    seen, and never above (all that was added) / `capacity`.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._counts: Counter[str] = Counter()
        self.missed = 0

    def add(self, names: Iterable[str] | Mapping[str, int]) -> None:
        """Count each name once, or a mapping's names by their counts."""
        self._counts.update(names)
        if len(self._counts) > 2 * self._capacity:
            ceiling = sorted(self._counts.values(), reverse=True)[self._capacity]
            self.missed += ceiling
            self._counts = Counter({name: count - ceiling for name, count in self._counts.items() if count > ceiling})

    def most_common(self, number: int) -> list[tuple[str, int]]:
        """Descending; equal counts by name."""
        return sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))[:number]

    def __getitem__(self, name: str) -> int:
        return self._counts[name]


class Histogram:
    """Counts of values between fixed edges: bin i holds edges[i] <= value < edges[i + 1].

    What lies below the first edge or from the last one on is counted in the outermost bins.
    """

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = list(edges)
        self.counts = [0] * (len(edges) - 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        bin_index = bisect.bisect_right(self.edges, value) - 1
        self.counts[min(max(bin_index, 0), len(self.counts) - 1)] += 1
        self.total += value

    @property
    def num(self) -> int:
        return sum(self.counts)

    @property
    def mean(self) -> float:
        return self.total / self.num if self.num else 0.0
