"""The leader rule by tables of bits, against the same rule written out over all pairs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from data_prep.filters import near_duplicates
from data_prep.filters.banding import band_keys, first_of_equal, meeting_probability, num_key_bits, tables
from data_prep.filters.near_duplicates import Followers, find_followers, ranges
from data_prep.filters.perceptual_hash import MIRROR, NUM_BITS, STABLE_BITS, as_words

THRESHOLD = 24


def clusters(num: int, centres: int, flips: float, seed: int) -> np.ndarray:
    """(num, 4) hashes: copies of some centres with bits flipped by chance, a third mirrored, a tenth exact copies."""
    rng = np.random.default_rng(seed)
    bits = np.unpackbits(rng.integers(0, 256, (centres, 32), dtype=np.uint8), axis=1)[rng.integers(0, centres, num)]
    hashes = np.packbits(bits ^ (rng.random(bits.shape) < flips / NUM_BITS), axis=1)
    hashes[rng.random(num) < 1 / 3] ^= MIRROR
    hashes[rng.integers(0, num, num // 10)] = hashes[rng.integers(0, num, num // 10)]
    return as_words(hashes)


def by_all_pairs(words: np.ndarray) -> list[int]:
    """The leader of each, -1 for none, with Python's integers."""
    mirror = int.from_bytes(MIRROR.tobytes(), "little")
    numbers = [int.from_bytes(row.astype("<u8").tobytes(), "little") for row in words]
    leaders: list[int] = []
    for number in numbers:
        near = (
            i
            for i, leader in enumerate(leaders)
            if leader < 0
            and min((numbers[i] ^ number).bit_count(), (numbers[i] ^ number ^ mirror).bit_count()) <= THRESHOLD
        )
        leaders.append(next(near, -1))
    return leaders


def follow(words: np.ndarray, folder: Path, processes: int = 1) -> Followers:
    with ThreadPoolExecutor(processes) as pool:
        return find_followers(words, np.arange(len(words)), THRESHOLD, folder, pool, processes)


@pytest.mark.parametrize(
    ("num", "centres", "flips"), [(800, 500, 4), (800, 60, 8), (600, 5, 14), (200, 1, 30), (8, 1, 10), (1, 1, 0)]
)
def test_the_outcome_is_that_of_all_pairs(num: int, centres: int, flips: int, tmp_path: Path) -> None:
    """From hardly any copies to one crowd where leaders are dropped themselves and their followers freed."""
    words = clusters(num, centres, flips, seed=num + centres)
    found = follow(words, tmp_path)
    expected = np.array(by_all_pairs(words))
    assert ((found.leaders < 0) == (expected < 0)).all(), "who stays"
    assert (found.leaders == expected).all(), "and whom the others follow"
    assert not list(tmp_path.iterdir())


def test_freed_followers_are_compared_again(tmp_path: Path) -> None:
    """b follows a; c and d follow b only. When b is dropped c stays, and d, near c, must follow c.

    All four share every bucket, so in each b takes c and d away before these have been compared.
    """
    bits = np.zeros((4, NUM_BITS), dtype=bool)
    odd = np.setdiff1d(np.arange(NUM_BITS), STABLE_BITS)  # no table looks at these
    bits[1, odd[:20]] = True
    bits[2, odd[:40]] = True
    bits[3, odd[:40]] = True
    bits[3, odd[40:44]] = True
    words = as_words(np.packbits(bits, axis=1))
    order = np.concatenate([words, clusters(60, 60, 0, seed=3)])  # enough for tables of several bits
    found = follow(order, tmp_path)
    assert found.leaders[:4].tolist() == [-1, 0, -1, 2]
    assert found.distances[:4].tolist() == [0, 20, 0, 4]


def test_processes_and_crowded_buckets_do_not_change_what_small_cases_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers find what one finds. With buckets split after 4 leaders, what is split is counted."""
    words = clusters(600, 200, 6, seed=9)
    one, two = follow(words, tmp_path), follow(words, tmp_path, processes=2)
    assert (one.leaders == two.leaders).all() and one.num_split == 0
    monkeypatch.setattr(near_duplicates, "MAX_LEADERS", 4)
    split = follow(words, tmp_path)
    assert split.num_split > 0
    assert np.mean((split.leaders < 0) == (one.leaders < 0)) > 0.99


def test_a_placeholder_served_a_hundred_thousand_times_is_one_hash(tmp_path: Path) -> None:
    """Equal hashes make no pairs; all follow the first."""
    words = np.repeat(clusters(1, 1, 0, seed=1), 100_000, axis=0)
    found = follow(words, tmp_path)
    assert found.num_distinct == 1 and found.num_split == 0
    assert found.leaders[0] == -1 and (found.leaders[1:] == 0).all()


def test_equal_rows_are_found() -> None:
    rows = np.array([[3, 1], [2, 2], [3, 1], [3, 2], [2, 2], [3, 1]], dtype=np.uint64)
    assert first_of_equal(rows).tolist() == [0, 1, 0, 3, 1, 0]
    assert first_of_equal(np.empty((0, 2), dtype=np.uint64)).tolist() == []


def test_band_keys_read_the_bits_that_packbits_wrote() -> None:
    bits = np.random.default_rng(5).integers(0, 2, (50, NUM_BITS), dtype=np.uint8)
    chosen = np.array([0, 7, 8, 63, 64, 255, 130])
    expected = [int("".join(str(value) for value in row[chosen]), 2) for row in bits]
    assert band_keys(as_words(np.packbits(bits, axis=1)), chosen).tolist() == expected


def test_tables_use_stable_bits_alike() -> None:
    """At 14 million: 21 bits, each table different bits, each bit in about as many tables as any other."""
    num_bits = num_key_bits(14_000_000)
    assert num_bits == 21 and num_key_bits(8) == 0 and num_key_bits(9) == 1
    chosen = [table[:num_bits] for table in tables(num_bits)]
    assert all(len(set(bits.tolist())) == num_bits and np.isin(bits, STABLE_BITS).all() for bits in chosen)
    counts = np.bincount(np.concatenate(chosen), minlength=NUM_BITS)[STABLE_BITS]
    assert counts.max() - counts.min() <= 8, "whole shuffles but for what does not fill a table"


def test_recall_at_the_thresholds_is_as_documented() -> None:
    """Any bits differ, 14 million samples: docs/filters.md has the simulation with more pairs."""
    assert meeting_probability(16, 21, trials=4_000) > 0.99
    assert meeting_probability(24, 21, trials=4_000) > 0.95


def test_ranges_names_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces of bounded length, empty ranges included."""
    monkeypatch.setattr(near_duplicates, "CHUNK", 4)
    starts, ends = np.array([2, 5, 5, 0]), np.array([5, 5, 6, 9])
    pairs = [pair for which, place in ranges(starts, ends) for pair in zip(which.tolist(), place.tolist(), strict=True)]
    assert pairs == [(0, 2), (0, 3), (0, 4), (2, 5), *((3, place) for place in range(9))]
