"""Which samples to compare, without comparing all pairs: hashes that agree on some bits meet in a bucket.

A table is a choice of bits; hashes with the same values there share a bucket. Two hashes at a small distance very
probably share a bucket in some table, two distant ones hardly ever do. Only bits that an image and its mirror image
share are used, so that mirrored copies meet without a second entry. `first_of_equal` finds hashes equal in all bits.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from data_prep.filters.perceptual_hash import NUM_BITS, STABLE_BITS

NUM_TABLES = 48
HASHES_A_BUCKET = 8
"""On average, for evenly distributed bits: more find more pairs and cost in proportion. Sets the bits of a table."""
MAX_KEY_BITS = 32
CHUNK = 1 << 18


def num_key_bits(num_hashes: int) -> int:
    """Bits of a table for `num_hashes` hashes: 21 for 14 million, 0 (all pairs are compared) up to eight."""
    return max(0, math.ceil(math.log2(max(num_hashes, 1) / HASHES_A_BUCKET)))


def tables(num_bits: int, num_tables: int = NUM_TABLES) -> list[np.ndarray]:
    """The bits of each table: the first `num_bits` make the key, the next ones (32 in all) split a full bucket.

    Cut from shuffles of the stable bits, so that all are used equally often. The same on every machine and release.
    """
    if num_bits == 0:
        return [_shuffled(0)[:MAX_KEY_BITS]]
    a_shuffle = len(STABLE_BITS) // num_bits
    found = []
    for number in range(num_tables):
        shuffle, piece = divmod(number, a_shuffle)
        found.append(np.roll(_shuffled(shuffle), -piece * num_bits)[:MAX_KEY_BITS])
    return found


def band_keys(words: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """(n,) uint64: the values of `bits` in each of (n, 4) uint64 hashes."""
    keys = np.zeros(len(words), dtype=np.uint64)
    for start in range(0, len(words), CHUNK):  # a chunk stays in the processor's cache
        chunk, key = words[start : start + CHUNK], keys[start : start + CHUNK]
        for bit in bits.tolist():
            # np.packbits puts the first bit of a byte highest; words are little-endian.
            byte, from_top = divmod(bit, 8)
            key <<= np.uint64(1)
            key |= (chunk[:, byte // 8] >> np.uint64(8 * (byte % 8) + 7 - from_top)) & np.uint64(1)
    return keys


def meeting_probability(distance: int, num_bits: int, *, trials: int = 20_000, seed: int = 0) -> float:
    """Share of pairs that meet in some table when `distance` random bits differ, by simulation."""
    rng = np.random.default_rng(seed)
    chosen = [table[:num_bits] for table in tables(num_bits)]
    met = 0
    for _ in range(trials):
        differs = np.zeros(NUM_BITS, dtype=bool)
        differs[rng.choice(NUM_BITS, distance, replace=False)] = True
        met += any(not differs[bits].any() for bits in chosen)
    return met / trials


def _shuffled(number: int) -> np.ndarray:
    """The stable bits in the order of shuffle `number`."""
    order = sorted(STABLE_BITS.tolist(), key=lambda bit: hashlib.sha256(f"{number}:{bit}".encode()).digest())
    return np.array(order)


def first_of_equal(hashes: np.ndarray) -> np.ndarray:
    """(n,) int64: for each row of (n, k) uint64 hashes the index of the first equal row, which may be its own.

    Memory: 24 bytes a row beside the hashes.
    """
    order = np.lexsort(tuple(hashes[:, column] for column in range(hashes.shape[1])))  # stable: equal rows ascend
    first = np.arange(len(hashes))
    if len(hashes):
        begins = np.ones(len(hashes), dtype=bool)
        begins[1:] = False
        for column in range(hashes.shape[1]):
            values = hashes[order, column]
            begins[1:] |= values[1:] != values[:-1]
        first[order] = order[np.flatnonzero(begins)][np.cumsum(begins) - 1]
    return first
