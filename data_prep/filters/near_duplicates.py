"""The leader rule: in the order of the corpus, a sample stays unless an earlier one that stays looks nearly the same.

Equal hashes are merged first, so that a placeholder served a million times is one hash. Then every table (`banding`) is
searched by itself, in any process: in each bucket the earliest is compared with all the others, those near it leave the
bucket, and so on; a bucket of near copies is done after one pass instead of all pairs. The rule is then applied to all
pairs found. If every sample near another one is dropped itself, that other one is compared again with the samples that
stay in its buckets, until nothing changes. So the outcome is the one that the first sentence defines on all pairs that
meet in a table, for any order of tables and any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.filters.banding import CHUNK, band_keys, first_of_equal, num_key_bits, tables
from data_prep.filters.perceptual_hash import distances
from data_prep.workers.worker_pool import in_order

DISTINCT = "distinct.npy"
MAX_LEADERS = 1_000
"""Members of a bucket that are compared with all the others, before the rest of the bucket is split by further bits."""
SPLIT_BITS = 4
_LOW = np.uint64(0xFFFFFFFF)
_HIGH = np.uint64(32)


@dataclass(frozen=True)
class Followers:
    """The rule's decision on each compared sample, in the order given."""

    leaders: np.ndarray
    """(n,) int64: the earlier sample that it looks like, or -1 when it stays."""
    distances: np.ndarray
    """(n,) int64: distance to that sample or to its mirror image, the smaller one."""
    num_distinct: int
    """Different hashes."""
    num_split: int
    """Members of buckets that were too full, summed over tables: there they were compared with fewer others."""


@dataclass(frozen=True)
class _Search:
    """One table to search. `again`: which hashes stay so far, and which of them to compare again."""

    stored: Path
    bits: np.ndarray
    num_bits: int
    threshold: int
    again: tuple[np.ndarray, np.ndarray] | None = None


def find_followers(
    words: np.ndarray, rows: np.ndarray, threshold: int, work: Path, pool: Executor, processes: int
) -> Followers:
    """Apply the rule to the hashes `words[rows]`, (n, 4) uint64, in that order.

    Memory for n hashes: about 60 n bytes while equal ones are found, then 16 n bytes in each process for its current
    table, and 8 bytes for each pair found. The distinct hashes, 32 bytes each, go to a file in `work`, which the
    processes map.
    """
    first = first_of_equal(words[rows])
    distinct = np.flatnonzero(first == np.arange(len(rows)))
    stored = _store(words, rows, distinct, work / DISTINCT)
    num_bits = num_key_bits(len(distinct))
    searches = [_Search(stored, bits, num_bits, threshold) for bits in tables(num_bits)]
    pairs, num_split = _union(np.empty(0, dtype=np.uint64), pool, searches, processes)
    compared_again = np.zeros(len(distinct), dtype=bool)
    while True:
        leaders = _decide(pairs, len(distinct))
        stays = leaders < 0
        freed = np.zeros(len(distinct), dtype=bool)
        freed[(pairs >> _HIGH).astype(np.int64)] = True
        freed &= stays & ~compared_again
        if not freed.any():
            break
        compared_again |= freed
        again = [_Search(stored, s.bits, num_bits, threshold, (stays, np.flatnonzero(freed))) for s in searches]
        pairs, _ = _union(pairs, pool, again, processes)
    result = _spread(first, distinct, leaders, np.load(stored, mmap_mode="r"), num_split)
    stored.unlink()
    return result


def search_table(task: _Search) -> tuple[np.ndarray, int]:
    """Pairs within the threshold that meet in one table, `later << 32 | earlier`, ascending; and `num_split`."""
    words = np.load(task.stored, mmap_mode="r")
    keys = band_keys(words, task.bits[: task.num_bits])
    if task.again is not None:
        return _compare_again(words, keys, *task.again, task.threshold), 0
    keys = np.sort(keys << _HIGH | np.arange(len(keys), dtype=np.uint64))
    order = (keys & _LOW).astype(np.uint32)
    keys >>= _HIGH
    found, num_split = [], 0
    for begin, end in _whole_buckets(keys):
        members = order[begin:end]
        pairs, split = _search_buckets(words[members], keys[begin:end], task)
        num_split += split
        found += [members[pair[1]].astype(np.uint64) << _HIGH | members[pair[0]] for pair in pairs]
    return np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.uint64), num_split


def ranges(starts: np.ndarray, ends: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every (i, p) with starts[i] <= p < ends[i], as pairs of arrays of about CHUNK elements."""
    sizes = ends - starts
    until = np.cumsum(sizes)
    begin = 0
    while begin < len(sizes):
        before = until[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(until, before + CHUNK, side="right")))
        some = sizes[begin:end]
        which = np.repeat(np.arange(begin, end), some)
        into = np.arange(some.sum()) - np.repeat(np.cumsum(some) - some, some)
        yield which, starts[which] + into
        begin = end


def _union(pairs: np.ndarray, pool: Executor, searches: list[_Search], processes: int) -> tuple[np.ndarray, int]:
    num_split = 0
    for found, split in in_order(pool, search_table, searches, ahead=processes + 1):
        pairs = np.union1d(pairs, found)
        num_split += split
    return pairs, num_split


def _store(words: np.ndarray, rows: np.ndarray, distinct: np.ndarray, path: Path) -> Path:
    path.unlink(missing_ok=True)
    stored = np.lib.format.open_memmap(path, mode="w+", dtype="<u8", shape=(len(distinct), 4))
    for start in range(0, len(distinct), CHUNK):
        stored[start : start + CHUNK] = words[rows[distinct[start : start + CHUNK]]]
    stored.flush()
    return path


def _whole_buckets(keys: np.ndarray) -> Iterator[tuple[int, int]]:
    """Stretches of sorted keys of at least CHUNK, cut between buckets."""
    begin = 0
    while begin < len(keys):
        last = min(begin + CHUNK, len(keys)) - 1
        end = int(np.searchsorted(keys, keys[last], side="right"))
        yield begin, end
        begin = end


def _search_buckets(
    words: np.ndarray, keys: np.ndarray, task: _Search
) -> tuple[list[tuple[np.ndarray, np.ndarray]], int]:
    """Pairs (leader, follower) of positions in `words`, whose equal keys are adjacent; members ascend in a bucket."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    active, bits_used, rounds, num_split = np.arange(len(words)), task.num_bits, 0, 0
    while True:
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        sizes = np.diff(np.append(starts, len(keys)))
        with_others = np.repeat(sizes > 1, sizes)
        active, keys, sizes = active[with_others], keys[with_others], sizes[sizes > 1]
        if not len(active):
            return found, num_split
        starts = np.cumsum(sizes) - sizes
        leaders = np.repeat(active[starts], sizes)
        near = distances(words[active], words[leaders]) <= task.threshold
        leaves = near.copy()
        near[starts] = False
        found.append((leaders[near], active[near]))
        active, keys = active[~leaves], keys[~leaves]
        rounds += 1
        if rounds % MAX_LEADERS == 0 and bits_used < len(task.bits) and len(active):
            num_split += len(active)
            further = task.bits[bits_used : bits_used + SPLIT_BITS]
            bits_used += len(further)
            keys = keys << np.uint64(len(further)) | band_keys(words[active], further)
            order = np.argsort(keys, kind="stable")
            active, keys = active[order], keys[order]


def _compare_again(
    words: np.ndarray, keys: np.ndarray, stays: np.ndarray, freed: np.ndarray, threshold: int
) -> np.ndarray:
    """Pairs of a freed hash and any that stays, in its bucket."""
    mates = np.flatnonzero(stays & np.isin(keys, keys[freed]))
    mates = mates[np.argsort(keys[mates], kind="stable")]
    sorted_keys, wanted = keys[mates], keys[freed]
    bounds = (np.searchsorted(sorted_keys, wanted, side=side) for side in ("left", "right"))
    found = [np.empty(0, dtype=np.uint64)]
    for which, position in ranges(*bounds):
        one, other = freed[which], mates[position]
        near = (distances(words[one], words[other]) <= threshold) & (one != other)
        later, earlier = np.maximum(one, other)[near], np.minimum(one, other)[near]
        found.append(later.astype(np.uint64) << _HIGH | earlier.astype(np.uint64))
    return np.unique(np.concatenate(found))


def _decide(pairs: np.ndarray, count: int) -> np.ndarray:
    """(count,) int64: the earliest leader near each hash, or -1. `pairs` ascend, so leaders are decided before use."""
    leaders = np.full(count, -1, dtype=np.int64)
    dropped = bytearray(count)
    for start in range(0, len(pairs), CHUNK):
        part = pairs[start : start + CHUNK]
        for later, earlier in zip((part >> _HIGH).tolist(), (part & _LOW).tolist(), strict=True):
            if not dropped[later] and not dropped[earlier]:
                dropped[later] = True
                leaders[later] = earlier
    return leaders


def _spread(
    first: np.ndarray, distinct: np.ndarray, leaders: np.ndarray, words: np.ndarray, num_split: int
) -> Followers:
    """Extend leaders of distinct hashes to all: equal ones get the leader of the first, or the first itself."""
    follows = np.flatnonzero(leaders >= 0)
    apart = np.zeros(len(distinct), dtype=np.int64)
    for start in range(0, len(follows), CHUNK):
        some = follows[start : start + CHUNK]
        apart[some] = distances(words[some], words[leaders[some]])
    number = np.searchsorted(distinct, first)
    own = np.where(leaders >= 0, distinct[leaders], -1)[number]
    everyone = np.where(own >= 0, own, np.where(first == np.arange(len(first)), -1, first))
    return Followers(everyone, np.where(own >= 0, apart[number], 0), len(distinct), num_split)
