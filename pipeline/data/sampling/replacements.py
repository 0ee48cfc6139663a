"""Who stands in for a sample that cannot be used."""

from __future__ import annotations

import numpy as np

NUM_REPLACEMENTS = 7


def replacements(shard_starts: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The samples to try, in this order, in place of each of `indices`. Pure: no epoch, rank, worker or state.

    First the samples a quarter, a half and three quarters of the shard further on (wrapping): the source and the open
    file stay the same; they are far apart because what damages one sample of a tar (truncation, a bad block) tends to
    damage its neighbours. Then the sample at the same relative place of four other shards spread over the corpus, for
    the case that the whole shard is gone.

    A real sample rather than a gray image with a stock caption: two equal blanks in a batch would be each other's false
    negatives, and would sit in the feature queue for many steps. The price is that the replacement is seen twice in the
    epoch; two bad samples of one shard never share their first replacement.

    Args:
        shard_starts: (S+1,) shard s holds the samples shard_starts[s] .. shard_starts[s+1]-1.
        indices: (n,) the samples that may fail.

    Returns: (n, NUM_REPLACEMENTS) sample indices. In a small corpus an entry may repeat another or be the sample
        itself; trying it again changes nothing.
    """
    sizes = np.diff(shard_starts)
    shards = np.searchsorted(shard_starts, indices, side="right") - 1  # (n,)
    starts, own = shard_starts[shards], sizes[shards]
    places = indices - starts
    near = [starts + (places + np.maximum(1, own * quarter // 4)) % own for quarter in (1, 2, 3)]
    filled = np.flatnonzero(sizes)  # shards without samples cannot help
    ranks = np.searchsorted(filled, shards)
    far = []
    for fifth in (1, 2, 3, 4):
        others = filled[(ranks + max(1, len(filled) * fifth // 5)) % len(filled)]
        far.append(shard_starts[others] + places * sizes[others] // own)
    return np.stack(near + far, axis=1)
