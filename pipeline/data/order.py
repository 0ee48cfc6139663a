"""Which samples each (epoch, step, lane) holds: pure functions of the corpus's sizes, the seed and the epoch.

An epoch goes once through every sample. The shards are permuted; neighbours in that permutation form windows of
`window_shards`; within a window all samples are permuted. So a step reads from `window_shards` tars at a time, which
the page cache and read-ahead like, while any two epochs cut the corpus into different windows. Cost: O(window) memory
and time when a window is entered, nothing for what was skipped, so a position is found without replaying.

Against a full permutation: two samples of one shard stay within `window_shards` shards of each other inside an epoch,
and samples of shards in different windows never meet in one, however long the epoch. That matters where a shard's
samples resemble each other (sorted by host, by album); a wider window, or data shuffled when it was packed, mends it.
With window_shards >= the number of shards the order is a full permutation.

Sample i of lane l in step t of an epoch is order[t * G + l * b + i], with G the global batch and b the micro-batch.
The last N mod G samples of the order are left out of the epoch; another epoch leaves out others. World size does not
occur in this file.

Permutations come from sorting hashed counters (splitmix64), not from a library's generator, so that no release of
NumPy or torch can change which samples a finished run saw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from albef.errors import DataError
from pipeline.seeds import derive


class EpochOrder:
    """The order of one epoch, computed window by window.

    Args:
        shard_sizes: (S,) samples per shard; sample indices count through the shards in this order.
        seed: the run's seed.
        epoch: counts from 0.
        window_shards: neighbouring shards whose samples are permuted together.
    """

    def __init__(self, shard_sizes: np.ndarray, *, seed: int, epoch: int, window_shards: int) -> None:
        self.seed, self.epoch, self.window_shards = seed, epoch, window_shards
        self._sizes = np.asarray(shard_sizes, dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)])
        self._shards = permutation(len(self._sizes), derive(seed, "shards", epoch))
        of_windows = np.add.reduceat(self._sizes[self._shards], np.arange(0, len(self._sizes), window_shards))
        self._window_starts = np.concatenate([[0], np.cumsum(of_windows)])
        self._window: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def indices(self, start: int, stop: int) -> np.ndarray:
        """The sample indices at positions start .. stop-1 of the epoch, int64. 0 <= start <= stop <= len(self)."""
        assert 0 <= start <= stop <= len(self), (start, stop, len(self))
        pieces = []
        while start < stop:
            window = int(np.searchsorted(self._window_starts, start, side="right")) - 1
            first, end = self._window_starts[window], min(stop, self._window_starts[window + 1])
            pieces.append(self._permuted(window)[start - first : end - first])
            start = int(end)
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)

    def _permuted(self, window: int) -> np.ndarray:
        if self._window[0] != window:
            shards = self._shards[window * self.window_shards : (window + 1) * self.window_shards]
            samples = np.concatenate([np.arange(self._starts[s], self._starts[s + 1]) for s in shards])
            order = permutation(len(samples), derive(self.seed, "window", self.epoch, window))
            self._window = (window, samples[order])
        return self._window[1]


@dataclass(frozen=True, eq=False)
class LaneOrder:
    """The samples of every global step of a run, epoch after epoch.

    Args:
        shard_sizes: (S,) samples per shard.
        seed: the run's seed.
        window_shards: see EpochOrder.
        micro_batch_size: b, samples in a lane's step.
        num_lanes: M; the global batch is M * b.

    Raises: DataError when the corpus is smaller than one global batch.
    """

    shard_sizes: np.ndarray
    seed: int
    window_shards: int
    micro_batch_size: int
    num_lanes: int

    def __post_init__(self) -> None:
        if not self.steps_per_epoch:
            raise DataError(
                f"the data holds {self.num_samples} samples, fewer than one global batch of {self.global_batch_size} "
                f"({self.num_lanes} lanes x micro-batch {self.micro_batch_size})",
                f"use a global_batch_size of at most {self.num_samples}, or more data",
            )

    @property
    def num_samples(self) -> int:
        """Samples in the corpus."""
        return int(np.sum(self.shard_sizes))

    @property
    def global_batch_size(self) -> int:
        """Samples in a global step, over all lanes."""
        return self.num_lanes * self.micro_batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in the corpus."""
        return self.num_samples // self.global_batch_size

    @property
    def remainder(self) -> int:
        """Samples left out of each epoch (others each time)."""
        return self.num_samples % self.global_batch_size

    def epoch_of(self, step: int) -> int:
        """The epoch that global step `step` (counted from 0 over all epochs) belongs to."""
        return step // self.steps_per_epoch

    def epoch(self, epoch: int) -> EpochOrder:
        """The order of one epoch. Keep it while in the epoch: it holds the current window."""
        return EpochOrder(self.shard_sizes, seed=self.seed, epoch=epoch, window_shards=self.window_shards)

    def lane(self, order: EpochOrder, step: int, lane: int) -> np.ndarray:
        """(b,) sample indices of `lane` in global step `step`, which lies in the epoch that `order` is of."""
        assert order.epoch == self.epoch_of(step)
        start = (step % self.steps_per_epoch) * self.global_batch_size + lane * self.micro_batch_size
        return order.indices(start, start + self.micro_batch_size)


def permutation(count: int, key: int) -> np.ndarray:
    """(count,) a permutation of 0 .. count-1 chosen by `key`: the argsort of splitmix64 at key + 1, key + 2, ..."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        z = np.uint64(key) + golden * np.arange(1, count + 1, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return np.argsort(z, kind="stable")
