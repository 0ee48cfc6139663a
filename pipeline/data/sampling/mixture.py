"""Several sources with weights: how many samples an epoch takes of each, which ones, and at which positions.

An epoch has as many global batches as the weights allow without repeating a sample. Of a source that has more samples,
an epoch takes a stretch, and the next epoch starts where it ended. The stretches go around a fixed circle of the
source's samples (its shards permuted, each shard's samples permuted). So after E epochs of n samples each, every one of
its N samples has been taken floor(E n / N) or ceil(E n / N) times: none a second time before all were taken once, and
none is left out. At the end of a run of E epochs, E n mod N samples have been taken once more than the others. Within
its epoch a stretch is shuffled again (`epoch_order.MixedEpoch`).

Positions are interleaved as evenly as whole numbers allow: item i of a source is at (i + 1/2) / n of the epoch, and the
items of all sources are sorted by that. Any stretch of any epoch is computed directly, without stepping through the
ones before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from albef.errors import DataError
from pipeline.config.sections import check_weights, listed
from pipeline.data.seeds import derive, splitmix64


@dataclass(frozen=True)
class Piece:
    """A stretch of a shard's samples, in that shard's fixed order."""

    shard: int
    size: int
    """Number of samples of the whole shard."""
    start: int
    stop: int

    def positions(self, seed: int) -> np.ndarray:
        """The piece's samples, as positions in their shard."""
        if self.stop - self.start == self.size:
            return np.arange(self.size)
        fixed = np.argsort(splitmix64(derive(seed, "rotation", "shard", self.shard), self.size), kind="stable")
        return fixed[self.start : self.stop]


@dataclass(frozen=True, eq=False)
class Mixture:
    """Sources and their shares of an epoch.

    Args:
        shard_sizes: (S,) samples per shard.
        source_shards: (K+1,) source k holds the shards source_shards[k] .. source_shards[k+1]-1.
        weights: (K,) shares, in any unit.
        global_batch_size: an epoch is a whole number of these.

    Raises: ConfigError for weights that are not positive; DataError when an epoch would be empty, or take nothing of
        a source.
    """

    shard_sizes: np.ndarray
    source_shards: np.ndarray
    weights: tuple[float, ...]
    global_batch_size: int

    def __post_init__(self) -> None:
        check_weights(self.weights, len(self.source_shards) - 1)
        longest = min(Fraction(int(size)) / share for size, share in zip(self.sizes, self.shares, strict=True))
        if longest < self.global_batch_size:
            source = min(range(len(self.shares)), key=lambda k: Fraction(int(self.sizes[k])) / self.shares[k])
            raise DataError(
                f"data.weights {listed(self.weights)}: an epoch without a sample twice has {math.floor(longest)} "
                f"samples, fewer than one global batch of {self.global_batch_size}, because source {source + 1} has "
                f"{self.sizes[source]} samples for a share of {float(self.shares[source]):.3g}",
                f"lower the weight of source {source + 1}, or set data.weights to null to take every sample once",
            )
        if (self.taken == 0).any():
            source = int(np.flatnonzero(self.taken == 0)[0])
            raise DataError(
                f"data.weights {listed(self.weights)}: an epoch of {self.epoch_size} samples has none of source "
                f"{source + 1}, whose share is {float(self.shares[source]):.3g}",
                f"raise the weight of source {source + 1}, or remove it from data.manifests",
            )

    @cached_property
    def shares(self) -> list[Fraction]:
        """(K,) the weights as written in decimal, divided by their sum; exact."""
        exact = [Fraction(str(weight)) for weight in self.weights]
        return [weight / sum(exact) for weight in exact]

    @cached_property
    def sizes(self) -> np.ndarray:
        """(K,) samples of each source."""
        starts = np.concatenate([[0], np.cumsum(self.shard_sizes)])
        return np.diff(starts[self.source_shards])

    @cached_property
    def epoch_size(self) -> int:
        """T, samples of an epoch: a whole number of global batches."""
        longest = min(Fraction(int(size)) / share for size, share in zip(self.sizes, self.shares, strict=True))
        return math.floor(longest / self.global_batch_size) * self.global_batch_size

    @cached_property
    def taken(self) -> np.ndarray:
        """(K,) samples that an epoch takes of each source, T in all: largest remainders, earlier sources first."""
        exact = [share * self.epoch_size for share in self.shares]
        taken = [math.floor(amount) for amount in exact]
        by_remainder = sorted(range(len(exact)), key=lambda k: (taken[k] - exact[k], k))
        for source in by_remainder[: self.epoch_size - sum(taken)]:
            taken[source] += 1  # never above the source's size: share * T is at most that, and that is whole
        return np.array(taken, dtype=np.int64)

    def pieces(self, source: int, epoch: int, seed: int) -> list[Piece]:
        """What `epoch` takes of `source`: the stretch of its circle that starts where the epoch before ended."""
        first_shard, end_shard = int(self.source_shards[source]), int(self.source_shards[source + 1])
        size, count = int(self.sizes[source]), int(self.taken[source])
        hashed = splitmix64(derive(seed, "rotation", "source", source), end_shard - first_shard)
        circle = first_shard + np.argsort(hashed, kind="stable")
        ends = np.cumsum(self.shard_sizes[circle])
        begin = epoch * count % size
        stretches = [(begin, min(begin + count, size)), (0, max(0, begin + count - size))]
        pieces = []
        for start, stop in stretches:
            if start == stop:
                continue
            number = int(np.searchsorted(ends, start, side="right"))
            while start < stop:
                shard, end = int(circle[number]), int(ends[number])
                whole = int(self.shard_sizes[shard])
                if whole:
                    pieces.append(Piece(shard, whole, start - end + whole, min(stop, end) - end + whole))
                start, number = max(start, min(stop, end)), number + 1
        return pieces

    def interleaved(self, start: int, stop: int) -> list[tuple[int, np.ndarray]]:
        """For each source, its items at the epoch's positions start .. stop-1: (first item, (n,) their positions)."""
        total, num_sources = self.epoch_size, len(self.taken)
        parts = []
        for source, count in enumerate(self.taken.tolist()):
            # An item's position differs from its ideal one by less than half the number of sources.
            low = max(0, start * count // total - num_sources)
            high = min(count, stop * count // total + num_sources + 1)
            items = np.arange(low, high)
            positions = items + sum(
                self._before(items, source, other) for other in range(num_sources) if other != source
            )
            inside = (positions >= start) & (positions < stop)
            first = int(items[inside][0]) if inside.any() else 0
            parts.append((first, positions[inside]))
        return parts

    def _before(self, items: np.ndarray, source: int, other: int) -> np.ndarray:
        """The number of items of `other` before each of `items` of `source`.

        Item j of `other` is at (2j + 1) / (2 m), item i of `source` at (2i + 1) / (2 n); of two at the same point, that
        of the earlier source comes first.
        """
        own, theirs = int(self.taken[source]), int(self.taken[other])
        above = (2 * items + 1) * theirs - own  # j < above / (2 own)
        counts = above // (2 * own) + 1 if other < source else -(-above // (2 * own))
        return np.clip(counts, 0, theirs)
