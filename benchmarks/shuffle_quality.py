"""The order of an epoch against a full permutation, for several windows: `python -m benchmarks.shuffle_quality`.

Prints a table for docs/data_order.md: quality (pipeline/data/shuffle_quality.py), the most memory the order held while
an epoch was read from it batch by batch, and the longest a batch waited for its window.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import tracemalloc

import numpy as np

from pipeline.data.sampling.epoch_order import EpochOrder
from pipeline.data.shuffle_quality import expected, measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=1400)
    parser.add_argument("--samples", type=int, default=1000, help="in each shard (default: 1000)")
    parser.add_argument("--batch", type=int, default=512, help="global batch (default: 512)")
    parser.add_argument("--windows", default="1,8,64,512,1400", help="in shards")
    args = parser.parse_args()
    sizes = np.full(args.shards, args.samples)
    print(f"{args.shards:,} shards of {args.samples:,} samples, global batch {args.batch}\n")
    rows = []
    for window in map(int, args.windows.split(",")):
        order = EpochOrder(sizes, seed=0, epoch=0, window_shards=window)
        mib, longest_s = cost(order, args.batch)
        rows.append((f"{window}", measure(order, sizes, args.batch), f"{mib:.1f}", f"{longest_s * 1000:.0f}"))
    rows.append(("full permutation, expected", expected(args.shards, args.batch), "", ""))
    names = [field.name for field in dataclasses.fields(rows[0][1])]
    print("| window, shards | " + " | ".join(names) + " | memory, MiB | longest wait, ms |")
    print("| --- |" + " --- |" * (len(names) + 2))
    for label, quality, mib_text, wait in rows:
        values = " | ".join(f"{value:.4f}" for value in dataclasses.astuple(quality))
        print(f"| {label} | {values} | {mib_text} | {wait} |")


def cost(order: EpochOrder, batch: int) -> tuple[float, float]:
    """(MiB held at most, seconds of the longest batch) while up to three windows are read batch by batch."""
    stop = min(len(order), 3 * int(np.max(np.diff(order._window_starts))))
    tracemalloc.start()
    longest = 0.0
    for start in range(0, stop - batch + 1, batch):
        began = time.perf_counter()
        order.indices(start, start + batch)
        longest = max(longest, time.perf_counter() - began)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20, longest


if __name__ == "__main__":
    main()
