"""Which samples each (epoch, step, lane) holds: pure functions of the corpus's sizes, the seed and the epoch.

An epoch takes every sample once. The shards are permuted; `window_shards` neighbours in that permutation form a window;
within a window all samples are permuted. So a step reads from `window_shards` tars at a time, which suits the page
cache and read-ahead, while any two epochs divide the corpus into different windows. Entering a window costs O(window)
memory and time, and skipped windows cost nothing, so any position is found without replaying the epoch.

The difference from a full permutation: two samples of one shard stay within `window_shards` shards of each other in an
epoch, and samples of shards in different windows never share a batch in it, except at a window's edge. That matters
where a shard's samples resemble each other (sorted by host, by album); a wider window, or shuffling the data before it
is packed, fixes it. With window_shards >= the number of shards the order is a full permutation. docs/data_order.md has
the measurements.

Sources with weights are mixed by `pipeline/data/sampling/mixture.py`; each source then has its own windows.

Sample i of lane l in step t of an epoch is order[t * G + l * b + i], with G the global batch and b the micro-batch.
The last N mod G samples of the order are left out of the epoch; each epoch leaves out others. World size does not
occur in this file.

Permutations come from sorting hashed counters (splitmix64), not from a library's generator, so that no release of
NumPy or torch can change which samples a finished run has seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from albef.errors import DataError
from pipeline.data.sampling.mixture import Mixture
from pipeline.data.seeds import derive, splitmix64


class Order(Protocol):
    """The order of one epoch."""

    epoch: int

    def __len__(self) -> int: ...

    def indices(self, start: int, stop: int) -> np.ndarray:
        """The sample indices at positions start .. stop-1 of the epoch, int64. 0 <= start <= stop <= len(self)."""


class EpochOrder:
    """The order of one epoch over one set of shards, computed window by window.

    Args:
        shard_sizes: samples per shard; sample indices count through the shards in this order.
        seed: the run's seed.
        epoch: counts from 0.
        window_shards: number of consecutive shards whose samples are permuted together.
        samples_of: the sample indices of shard number s; by default the next shard_sizes[s] ones.
        name: distinguishes this order's draws from those of other orders of the same epoch.
    """

    def __init__(
        self,
        shard_sizes: np.ndarray,
        *,
        seed: int,
        epoch: int,
        window_shards: int,
        samples_of: Callable[[int], np.ndarray] | None = None,
        name: tuple[int | str, ...] = (),
    ) -> None:
        self.seed, self.epoch, self.window_shards = seed, epoch, window_shards
        self._name = name
        self._sizes = np.asarray(shard_sizes, dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)])
        self._samples_of = samples_of or self._next_ones
        self._shards = permutation(len(self._sizes), derive(seed, "shards", epoch, *name))
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
            samples = np.concatenate([self._samples_of(int(shard)) for shard in shards])
            order = permutation(len(samples), derive(self.seed, "window", self.epoch, window, *self._name))
            self._window = (window, samples[order])
        return self._window[1]

    def _next_ones(self, shard: int) -> np.ndarray:
        return np.arange(self._starts[shard], self._starts[shard + 1])


class MixedEpoch:
    """The order of one epoch over sources with weights: each has its own windows, and all are evenly interleaved.

    Args: as for EpochOrder; mixture: the sources, and the samples that an epoch takes of each.
    """

    def __init__(self, shard_sizes: np.ndarray, mixture: Mixture, *, seed: int, epoch: int, window_shards: int) -> None:
        self.epoch, self._mixture = epoch, mixture
        self._starts = np.concatenate([[0], np.cumsum(shard_sizes)])
        self._orders = []
        for source in range(len(mixture.weights)):
            pieces = mixture.pieces(source, epoch, seed)
            self._orders.append(
                EpochOrder(
                    np.array([piece.stop - piece.start for piece in pieces]),
                    seed=seed,
                    epoch=epoch,
                    window_shards=window_shards,
                    samples_of=lambda number, pieces=pieces: (
                        self._starts[pieces[number].shard]  # type: ignore[misc]
                        + pieces[number].positions(seed)
                    ),
                    name=("source", source),
                )
            )

    def __len__(self) -> int:
        return self._mixture.epoch_size

    def indices(self, start: int, stop: int) -> np.ndarray:
        """The sample indices at positions start .. stop-1 of the epoch, int64. 0 <= start <= stop <= len(self)."""
        assert 0 <= start <= stop <= len(self), (start, stop, len(self))
        found = np.empty(stop - start, dtype=np.int64)
        for order, (first, positions) in zip(self._orders, self._mixture.interleaved(start, stop), strict=True):
            found[positions - start] = order.indices(first, first + len(positions))
        return found


@dataclass(frozen=True, eq=False)
class LaneOrder:
    """The samples of every global step of a run, epoch after epoch.

    Args:
        shard_sizes: (S,) samples per shard.
        seed: the run's seed.
        window_shards: see EpochOrder.
        micro_batch_size: b, samples in a lane's step.
        num_lanes: M; the global batch is M * b.
        source_shards: (K+1,) source k holds the shards source_shards[k] .. source_shards[k+1]-1; with weights only.
        weights: (K,) the share of an epoch that each source has; None takes every sample once.

    Raises: DataError when the corpus, or the part that the weights let an epoch take, is smaller than one global batch;
        ConfigError when the weights are not one positive number per source.
    """

    shard_sizes: np.ndarray
    seed: int
    window_shards: int
    micro_batch_size: int
    num_lanes: int
    source_shards: np.ndarray | None = None
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.num_samples < self.global_batch_size:
            raise DataError(
                f"the data holds {self.num_samples} samples, fewer than one global batch of {self.global_batch_size} "
                f"({self.num_lanes} lanes x micro-batch {self.micro_batch_size})",
                f"use a global_batch_size of at most {self.num_samples}, or more data",
            )
        assert self.mixture is None or self.steps_per_epoch, "the mixture has checked this"

    @cached_property
    def mixture(self) -> Mixture | None:
        """The samples that an epoch takes of each source; None when it takes every sample once."""
        if self.weights is None:
            return None
        source_shards = self.source_shards if self.source_shards is not None else np.array([0, len(self.shard_sizes)])
        return Mixture(self.shard_sizes, source_shards, self.weights, self.global_batch_size)

    @cached_property
    def num_samples(self) -> int:
        """Samples in the corpus."""
        return int(np.sum(self.shard_sizes))

    @property
    def global_batch_size(self) -> int:
        """Samples in a global step, over all lanes."""
        return self.num_lanes * self.micro_batch_size

    @cached_property
    def steps_per_epoch(self) -> int:
        """Whole global batches in an epoch."""
        return (self.num_samples if self.mixture is None else self.mixture.epoch_size) // self.global_batch_size

    @property
    def remainder(self) -> int:
        """Samples of the corpus left out of each epoch; each epoch leaves out others."""
        return self.num_samples - self.steps_per_epoch * self.global_batch_size

    def epoch_of(self, step: int) -> int:
        """The epoch that global step `step` (counted from 0 over all epochs) belongs to."""
        return step // self.steps_per_epoch

    def epoch(self, epoch: int) -> Order:
        """The order of one epoch. Keep it during the epoch: it caches the current window."""
        sizes, seed, window = self.shard_sizes, self.seed, self.window_shards
        if self.mixture is None:
            return EpochOrder(sizes, seed=seed, epoch=epoch, window_shards=window)
        return MixedEpoch(sizes, self.mixture, seed=seed, epoch=epoch, window_shards=window)

    def lane(self, order: Order, step: int, lane: int) -> np.ndarray:
        """(b,) sample indices of `lane` in global step `step`, which must be in the epoch of `order`."""
        assert order.epoch == self.epoch_of(step)
        start = (step % self.steps_per_epoch) * self.global_batch_size + lane * self.micro_batch_size
        return order.indices(start, start + self.micro_batch_size)


def permutation(count: int, key: int) -> np.ndarray:
    """(count,) a permutation of 0 .. count-1 chosen by `key`: the argsort of splitmix64 at key + 1, key + 2, ..."""
    return np.argsort(splitmix64(key, count), kind="stable")
