"""Time and memory of finding near duplicates among synthetic hashes, and how many planted ones are found.

    python -m benchmarks.dedup [--hashes 1000000] [--processes 2] [--fair]

A twentieth of the hashes are planted copies of others, with 0 to 24 bits changed, a third of them mirrored; a hundredth
are one and the same hash. The others are drawn with each bit as often set as in the demo's pictures, or, with
`--fair`, as by fair coins: the two differ in how unevenly buckets fill. Prints one JSON object; `extrapolated` is no
measurement: time and arrays in proportion to the number of hashes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import tempfile
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.filters.banding import num_key_bits
from data_prep.filters.near_duplicates import find_followers
from data_prep.filters.perceptual_hash import MIRROR, NUM_BITS, as_words, hash_image
from data_prep.filters.settings import FilterSettings
from data_prep.workers.worker_pool import open_pool

ASSETS = Path(__file__).parents[1] / "demo" / "assets"
LARGE = 14_000_000
PIECE = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--fair", action="store_true")
    flags = parser.parse_args()
    threshold = FilterSettings().near_distance
    chances = np.full(NUM_BITS, 0.5) if flags.fair else chances_of_pictures()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = np.lib.format.open_memmap(folder / "all.npy", mode="w+", dtype="<u8", shape=(flags.hashes, 4))
        planted = plant(words, chances, np.random.default_rng(0))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, cpu = time.monotonic(), processor_s()
        with open_pool(flags.processes) as pool:
            found = find_followers(words, np.arange(flags.hashes), threshold, folder, pool, flags.processes)
        seconds, cpu_s = time.monotonic() - began, processor_s() - cpu
    follows = found.leaders >= 0
    own, child = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    scale = LARGE / flags.hashes
    print(
        json.dumps(
            {
                "hashes": flags.hashes,
                "bits": "fair coins" if flags.fair else "as in the demo's pictures",
                "key_bits": num_key_bits(found.num_distinct),
                "threshold": threshold,
                "planted": len(planted),
                "planted_found": round(float(follows[planted].mean()), 5),
                "others_dropped": int(follows.sum() - follows[planted].sum()),
                "split": found.num_split,
                "seconds": round(seconds, 1),
                "processor_s": round(cpu_s, 1),
                "peak_mib": {"main": round(own), "main_before": round(before / 1024), "worker": round(child)},
                "extrapolated": {
                    "hashes": LARGE,
                    "processor_h": round(cpu_s * scale / 3600, 2),
                    "main_mib": round(before / 1024 + (own - before / 1024) * scale),
                },
                "processes": flags.processes,
                "load_average": [round(value, 1) for value in os.getloadavg()],
                "machine": platform.platform(),
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
            },
            indent=1,
        )
    )


def plant(words: np.ndarray, chances: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fill `words`; returns which rows are copies of earlier ones, changed within the threshold."""
    planted = []
    for start, end in pieces(len(words)):
        hashes = np.packbits(rng.random((end - start, NUM_BITS), dtype=np.float32) < chances, axis=1)
        some = np.arange((end - start) // 2, end - start, 10)  # a tenth of the second half, of the first half
        originals = rng.integers(0, (end - start) // 200, len(some)) * 100 + rng.integers(8, 100, len(some))
        bits = np.unpackbits(hashes[originals], axis=1)
        for row in bits:
            row[rng.choice(NUM_BITS, rng.integers(0, 25), replace=False)] ^= 1
        hashes[some] = np.packbits(bits, axis=1)
        hashes[some[::3]] ^= MIRROR
        planted.append(start + some)
        hashes[7 : end - start : 100] = 0xA5
        words[start:end] = as_words(hashes)
    rows = np.concatenate(planted)
    return rows[(rows - 7) % 100 != 0]


def pieces(total: int) -> Iterator[tuple[int, int]]:
    for start in range(0, total, PIECE):
        yield start, min(start + PIECE, total)


def chances_of_pictures() -> np.ndarray:
    """How often each bit is set in a thousand of the demo's pictures."""
    with zipfile.ZipFile(ASSETS / "pictures.zip") as archive:
        names = sorted(archive.namelist())[::8][:1000]
        looks = [hash_image(Image.open(io.BytesIO(archive.read(name)))) for name in names]
    return np.unpackbits(np.stack([look for look in looks if look is not None]), axis=1).mean(axis=0)


def processor_s() -> float:
    """Of this process and of children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


if __name__ == "__main__":
    main()
