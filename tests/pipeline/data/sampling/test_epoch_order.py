"""The order of samples: every one once an epoch, local in reading, a function of nothing but sizes, seed and epoch."""

from __future__ import annotations

import numpy as np
import pytest

from albef.errors import DataError
from pipeline.data.sampling.epoch_order import EpochOrder, LaneOrder, permutation

SIZES = np.array([5, 0, 9, 1, 7, 7, 3])


def test_splitmix64_is_the_published_generator():
    """The first outputs for state 0 are known (Vigna's reference code); a permutation is their argsort."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B]
    assert permutation(5, 0).tolist() == sorted(range(5), key=lambda i: published[i])


@pytest.mark.parametrize("window_shards", [1, 2, 3, 7, 100])
def test_an_epoch_holds_every_sample_once(window_shards):
    """For any window, also one larger than the corpus, and with an empty shard."""
    order = EpochOrder(SIZES, seed=3, epoch=0, window_shards=window_shards)
    assert len(order) == SIZES.sum()
    assert sorted(order.indices(0, len(order)).tolist()) == list(range(SIZES.sum()))


def test_any_stretch_of_the_order_can_be_had_by_itself():
    """A fresh order asked for any stretch gives what one long read gives there: seeking is not replaying."""
    whole = EpochOrder(SIZES, seed=1, epoch=4, window_shards=2).indices(0, 32)
    for start in range(32):
        for stop in range(start, 33):
            part = EpochOrder(SIZES, seed=1, epoch=4, window_shards=2).indices(start, stop)
            assert part.tolist() == whole[start:stop].tolist()


def test_an_epoch_by_size_is_what_it_always_was():
    """Written down from the version before sources had weights: finished runs must stay explainable."""
    order = EpochOrder(SIZES, seed=3, epoch=1, window_shards=2).indices(0, 32)
    assert order.tolist() == [
        *(8, 25, 11, 22, 23, 10, 7, 6, 9, 27, 26, 24, 28, 13, 5, 12),
        *(31, 1, 30, 29, 2, 0, 3, 4, 16, 19, 18, 21, 17, 14, 15, 20),
    ]
    lanes = LaneOrder(SIZES, seed=3, window_shards=2, micro_batch_size=4, num_lanes=2)
    assert lanes.lane(lanes.epoch(0), 1, 1).tolist() == [22, 25, 26, 24]


def test_seed_and_epoch_change_the_order():
    """Both the shards' order and the order inside windows change with either."""
    orders = {
        (seed, epoch): tuple(EpochOrder(SIZES, seed=seed, epoch=epoch, window_shards=2).indices(0, 32).tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(set(orders.values())) == 9


def test_a_window_reads_from_its_shards_only():
    """100 shards of 50, window 4: each 200 consecutive samples come from 4 shards; two epochs pair them differently."""
    groups = []
    for epoch in (0, 1):
        shards = EpochOrder(np.full(100, 50), seed=0, epoch=epoch, window_shards=4).indices(0, 5000) // 50
        windows = [frozenset(window.tolist()) for window in shards.reshape(25, 200)]
        assert all(len(window) == 4 for window in windows)
        groups.append(set(windows))
    assert len(groups[0] & groups[1]) < 3


def test_permutations_are_uniform():
    """The 24 orders of 4 things come up equally often: chi-square over 24,000 keys below its 99.99% point."""
    counts: dict[tuple[int, ...], int] = {}
    for key in range(24_000):
        drawn = tuple(permutation(4, key * 0x1234567).tolist())
        counts[drawn] = counts.get(drawn, 0) + 1
    assert len(counts) == 24
    chi_square = sum((count - 1000) ** 2 / 1000 for count in counts.values())
    assert chi_square < 57.1  # chi-square with 23 degrees of freedom, 99.99%


def test_lanes_divide_the_order_into_steps():
    """Lane l of step t holds positions t*G + l*b ... of the epoch; the last N mod G positions are left out."""
    lanes = LaneOrder(SIZES, seed=2, window_shards=2, micro_batch_size=3, num_lanes=2)
    assert (lanes.num_samples, lanes.global_batch_size, lanes.steps_per_epoch, lanes.remainder) == (32, 6, 5, 2)
    for epoch in (0, 1):
        order = lanes.epoch(epoch)
        seen = [lanes.lane(order, epoch * 5 + step, lane) for step in range(5) for lane in range(2)]
        whole = EpochOrder(SIZES, seed=2, epoch=epoch, window_shards=2).indices(0, 32)
        assert np.concatenate(seen).tolist() == whole[:30].tolist()
    assert [lanes.epoch_of(step) for step in (0, 4, 5, 9, 10)] == [0, 0, 1, 1, 2]


def test_a_corpus_smaller_than_a_batch_is_refused_with_the_numbers():
    """The original divides by zero here (salesforce/ALBEF#77)."""
    with pytest.raises(DataError, match="32 samples, fewer than one global batch of 64") as error:
        LaneOrder(SIZES, seed=0, window_shards=1, micro_batch_size=16, num_lanes=4)
    assert "at most 32" in error.value.hint
