"""Sources with weights: exact counts, no sample twice, none lost, any stretch by itself."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from albef.errors import ConfigError, DataError
from pipeline.config.sections import check_weights
from pipeline.data.sampling.epoch_order import LaneOrder, MixedEpoch
from pipeline.data.sampling.mixture import Mixture

# Three sources: 5 shards of 23 samples, 3 of 40, 2 of 7. One shard is empty.
SIZES = np.array([5, 0, 9, 2, 7, 20, 11, 9, 3, 4])
SOURCE_SHARDS = np.array([0, 5, 8, 10])
SOURCE_SIZES = (23, 40, 7)
STARTS = np.array([0, 23, 63, 70])
WEIGHTS = [(1, 1, 1), (0.5, 0.3, 0.2), (10, 1, 0.5), (1, 4, 1), (23, 40, 7)]


def mixture(weights: tuple[float, ...], batch: int = 4) -> Mixture:
    return Mixture(SIZES, SOURCE_SHARDS, weights, batch)


def whole(mixed: Mixture, epoch: int, *, seed: int = 3, window: int = 2) -> list[int]:
    order = MixedEpoch(SIZES, mixed, seed=seed, epoch=epoch, window_shards=window)
    return order.indices(0, len(order)).tolist()


def sources(samples: list[int]) -> list[int]:
    return [int(np.searchsorted(STARTS, sample, side="right")) - 1 for sample in samples]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_an_epoch_is_the_longest_with_these_shares(weights):
    """Whole batches; counts within one of the exact shares, and none above its source; one batch more would not fit."""
    mixed = mixture(weights)
    shares = [Fraction(str(weight)) / sum(Fraction(str(other)) for other in weights) for weight in weights]
    assert mixed.epoch_size % 4 == 0 and sum(mixed.taken) == mixed.epoch_size > 0
    for taken, share, size in zip(mixed.taken.tolist(), shares, SOURCE_SIZES, strict=True):
        assert abs(taken - share * mixed.epoch_size) < 1 and taken <= size
    longer = mixed.epoch_size + 4
    assert any(share * longer > size for share, size in zip(shares, SOURCE_SIZES, strict=True))


def test_counts_by_hand():
    """70 samples, shares 1/2, 3/10, 1/5: the last source's 7 allow 35, so 32 in batches of 4: 16, 9.6 and 6.4."""
    mixed = mixture((0.5, 0.3, 0.2))
    assert mixed.epoch_size == 32
    assert mixed.taken.tolist() == [16, 10, 6]
    assert Counter(sources(whole(mixed, 0))) == {0: 16, 1: 10, 2: 6}


@pytest.mark.parametrize("weights", WEIGHTS)
def test_no_sample_twice_in_an_epoch_and_none_lost_over_epochs(weights):
    """After each of 30 epochs every sample of a source has been taken floor(E n / N) or ceil(E n / N) times."""
    mixed = mixture(weights)
    counts: Counter[int] = Counter()
    orders = set()
    for epoch in range(30):
        samples = whole(mixed, epoch)
        assert len(set(samples)) == len(samples) == mixed.epoch_size
        assert Counter(sources(samples)) == {k: n for k, n in enumerate(mixed.taken.tolist()) if n}
        counts.update(samples)
        orders.add(tuple(samples))
        for source, size in enumerate(SOURCE_SIZES):
            seen = [counts[sample] for sample in range(STARTS[source], STARTS[source + 1])]
            taken = (epoch + 1) * int(mixed.taken[source])
            assert sum(seen) == taken
            assert set(seen) <= {taken // size, -(-taken // size)}
    assert len(orders) == 30


@pytest.mark.parametrize("weights", WEIGHTS)
def test_sources_are_interleaved_evenly(weights):
    """Position by position as sorting every item by its exact even place gives it, earlier sources first at ties."""
    mixed = mixture(weights)
    places = sorted((Fraction(2 * i + 1, 2 * n), k) for k, n in enumerate(mixed.taken.tolist()) for i in range(n))
    found = sources(whole(mixed, 1))
    assert found == [source for _, source in places]
    for position in range(len(found) + 1):  # so every stretch from the start has its share, within the sources' number
        for source, count in Counter(found[:position]).items():
            assert abs(count - position * mixed.taken[source] / mixed.epoch_size) < len(SOURCE_SIZES)


def test_any_stretch_of_a_mixed_epoch_can_be_had_by_itself():
    """A fresh order asked for any stretch of a late epoch gives what one long read gives there."""
    mixed = mixture((1, 4, 1))
    samples = whole(mixed, 17)
    for start in range(len(samples)):
        for stop in range(start, len(samples) + 1):
            part = MixedEpoch(SIZES, mixed, seed=3, epoch=17, window_shards=2).indices(start, stop)
            assert part.tolist() == samples[start:stop]


def test_lanes_divide_a_mixed_epoch():
    """All samples of an epoch go to the lanes: 4 lanes of 1 take the batches of 2 lanes of 2, epoch after epoch."""

    def steps(num_lanes: int, micro_batch_size: int) -> list[list[int]]:
        order = LaneOrder(SIZES, 3, 2, micro_batch_size, num_lanes, source_shards=SOURCE_SHARDS, weights=(1, 1, 1))
        assert order.steps_per_epoch == 5 and order.remainder == 70 - 20
        rows = []
        for step in range(15):
            epoch = order.epoch(order.epoch_of(step))
            rows.append(np.concatenate([order.lane(epoch, step, lane) for lane in range(num_lanes)]).tolist())
        return rows

    wide = steps(2, 2)
    assert steps(4, 1) == wide
    assert [sample for row in wide[10:] for sample in row] == whole(mixture((1, 1, 1)), 2)


def test_weights_in_the_proportion_of_the_sizes_take_every_sample():
    """23 : 40 : 7 in batches of 10: the whole corpus, each epoch in another order."""
    mixed = mixture((23, 40, 7), batch=10)
    assert mixed.taken.tolist() == list(SOURCE_SIZES)
    assert sorted(whole(mixed, 0)) == sorted(whole(mixed, 1)) == list(range(70))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0, 1.0), r"data\.weights has 2 numbers for 3 sources"),
        ((1.0, -2.0, 1.0), r"data\.weights: -2\.0 is not a share \(number 2 of \[1, -2, 1\]\)"),
        ((0.0, 1.0, 1.0), r"data\.weights: 0\.0 is not a share"),
        ((1.0, 1.0, float("nan")), r"data\.weights: nan is not a share"),
        ((1.0, float("inf"), 1.0), r"data\.weights: inf is not a share"),
    ],
)
def test_what_is_no_share_is_refused(weights, message):
    """With the key, the number and a way out."""
    with pytest.raises(ConfigError, match=message) as error:
        check_weights(weights, 3)
    assert "data.manifests" in error.value.hint


def test_an_epoch_that_would_be_empty_is_refused():
    """A large share for a small source; a share so small that it is no sample."""
    with pytest.raises(DataError, match=r"source 3 has 7 samples for a share of 0.98") as error:
        mixture((1, 1, 98), batch=8)
    assert "lower the weight of source 3" in error.value.hint
    with pytest.raises(DataError, match="none of source 3, whose share is 1e-06"):
        mixture((0.499999, 0.5, 0.000001))
