"""The samples that replace one that cannot be used."""

from __future__ import annotations

import numpy as np

NUM_REPLACEMENTS = 7


def replacements(shard_starts: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The samples to try, in this order, instead of each of `indices`. A pure function: no epoch, rank, worker or
    state.

    First the samples a quarter, a half and three quarters of the shard further on (wrapping around), which keep the
    source and the open file. They are far apart because damage to one sample of a tar (truncation, a bad block) often
    affects its neighbours. Then the samples at the same relative position of four other shards, spread over the corpus,
    in case the whole shard is unreadable.

    A replacement is a real sample rather than a gray image with a stock caption: two equal blanks in a batch would be
    each other's false negatives, for many steps where a task keeps features as negatives. The price is that an epoch
    takes the replacement twice. Two bad samples of one shard never share their first replacement.

    Args:
        shard_starts: (S+1,) shard s holds the samples shard_starts[s] .. shard_starts[s+1]-1.
        indices: (n,) the samples that may fail.

    Returns: (n, NUM_REPLACEMENTS) sample indices. In a small corpus an entry may repeat another or be the sample
        itself; trying it again changes nothing.
    """
    sizes = np.diff(shard_starts)
    shards = np.searchsorted(shard_starts, indices, side="right") - 1  # (n,)
    starts, own = shard_starts[shards], sizes[shards]
    positions = indices - starts
    near = [starts + (positions + np.maximum(1, own * quarter // 4)) % own for quarter in (1, 2, 3)]
    filled = np.flatnonzero(sizes)  # shards without samples have no replacements
    ranks = np.searchsorted(filled, shards)
    far = []
    for fifth in (1, 2, 3, 4):
        others = filled[(ranks + max(1, len(filled) * fifth // 5)) % len(filled)]
        far.append(shard_starts[others] + positions * sizes[others] // own)
    return np.stack(near + far, axis=1)
