"""How far an epoch's order is from a full permutation of the corpus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.data.sampling.epoch_order import Order


@dataclass(frozen=True, kw_only=True)
class ShuffleQuality:
    """Measured over one whole epoch; distances are shares of the epoch's length. `expected` has a permutation's."""

    displacement: float
    """Mean distance of a sample from its place in the manifest."""
    neighbour_distance: float
    """Mean distance in the manifest of two samples that follow each other in the order."""
    neighbour_correlation: float
    """Pearson's, of the places in the manifest of two samples that follow each other."""
    same_shard_pct: float
    """Percent of samples whose follower is of the same shard."""
    spread: float
    """Mean distance in the order of two samples that follow each other in the manifest."""
    shards_per_batch: float
    """Mean number of different shards in a global batch."""


def measure(order: Order, shard_sizes: np.ndarray, global_batch_size: int) -> ShuffleQuality:
    """The quality of an order that holds every sample once. Takes O(samples) memory, unlike the order itself."""
    samples = order.indices(0, len(order))
    count = len(samples)
    shards = np.repeat(np.arange(len(shard_sizes)), shard_sizes)[samples]
    places = np.empty(count, dtype=np.int64)  # of each sample in the order
    places[samples] = np.arange(count)
    batches = shards[: count // global_batch_size * global_batch_size].reshape(-1, global_batch_size)
    distinct = (np.diff(np.sort(batches, axis=1), axis=1) > 0).sum(axis=1) + 1
    return ShuffleQuality(
        displacement=float(np.abs(samples - np.arange(count)).mean() / count),
        neighbour_distance=float(np.abs(np.diff(samples)).mean() / count),
        neighbour_correlation=float(np.corrcoef(samples[:-1], samples[1:])[0, 1]),
        same_shard_pct=float(100 * (shards[:-1] == shards[1:]).mean()),
        spread=float(np.abs(np.diff(places)).mean() / count),
        shards_per_batch=float(distinct.mean()),
    )


def expected(num_shards: int, global_batch_size: int) -> ShuffleQuality:
    """What a full permutation of many equal shards has: two uniform places are a third apart."""
    return ShuffleQuality(
        displacement=1 / 3,
        neighbour_distance=1 / 3,
        neighbour_correlation=0.0,
        same_shard_pct=100 / num_shards,
        spread=1 / 3,
        shards_per_batch=num_shards * (1 - (1 - 1 / num_shards) ** global_batch_size),
    )
