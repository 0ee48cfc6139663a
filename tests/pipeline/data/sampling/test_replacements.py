"""Which samples replace a bad one."""

from __future__ import annotations

import numpy as np

from pipeline.data.sampling.replacements import NUM_REPLACEMENTS, replacements


def starts(*sizes: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)])


def test_replacements_are_spread_over_the_shard_then_over_the_corpus():
    """Of sample 1 in a shard of 8: samples 3, 5 and 7 of it, then the same place of four other shards."""
    found = replacements(starts(8, 8, 8, 8, 8, 8, 8, 8, 8, 8), np.array([1]))
    assert found.tolist() == [[3, 5, 7, 2 * 8 + 1, 4 * 8 + 1, 6 * 8 + 1, 8 * 8 + 1]]


def test_a_shard_cut_in_half_still_holds_a_replacement():
    """For each sample of the lost half, one of its three neighbours at a distance lies in the half that remains."""
    found = replacements(starts(100, 100), np.arange(50, 100))[:, :3]
    assert (found < 50).any(axis=1).all()


def test_first_replacements_differ():
    """Two bad samples of one shard never get the same first replacement."""
    found = replacements(starts(3, 10, 1), np.arange(3, 13))[:, 0]
    assert len(set(found.tolist())) == 10


def test_every_replacement_is_a_sample_of_the_corpus():
    """For odd sizes, shards of one sample and empty shards alike."""
    sizes = (5, 0, 9, 1, 7, 0, 3)
    found = replacements(starts(*sizes), np.arange(sum(sizes)))
    assert found.shape == (sum(sizes), NUM_REPLACEMENTS)
    assert found.min() >= 0 and found.max() < sum(sizes)
    one = replacements(starts(1), np.array([0]))
    assert (one == 0).all()
