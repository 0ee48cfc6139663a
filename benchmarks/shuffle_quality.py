"""The order of an epoch against a full permutation, for several windows: `python -m benchmarks.shuffle_quality`.

Prints a table for docs/data_order.md: quality (`ShuffleQuality`), the most memory the order held while
an epoch was read from it batch by batch, and the longest a batch waited for its window.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import tracemalloc
from dataclasses import dataclass

import numpy as np

from pipeline.data.sampling.epoch_order import EpochOrder, Order


@dataclass(frozen=True, kw_only=True)
class ShuffleQuality:
    """Measured over one whole epoch; distances are shares of the epoch's length. `expected` has a permutation's."""

    displacement: float
    """Mean distance of a sample from its place in the manifest."""
    neighbour_distance: float
    """Mean distance in the manifest of two samples that follow each other in the order."""
    neighbour_correlation: float
    """Pearson's, of the places in the manifest of two samples that follow each other."""
    same_shard_pct: float
    """Percent of samples whose follower is of the same shard."""
    spread: float
    """Mean distance in the order of two samples that follow each other in the manifest."""
    shards_per_batch: float
    """Mean number of different shards in a global batch."""


def measure(order: Order, shard_sizes: np.ndarray, global_batch_size: int) -> ShuffleQuality:
    """The quality of an order that holds every sample once. Takes O(samples) memory, unlike the order itself."""
    samples = order.indices(0, len(order))
    count = len(samples)
    shards = np.repeat(np.arange(len(shard_sizes)), shard_sizes)[samples]
    places = np.empty(count, dtype=np.int64)  # of each sample in the order
    places[samples] = np.arange(count)
    batches = shards[: count // global_batch_size * global_batch_size].reshape(-1, global_batch_size)
    distinct = (np.diff(np.sort(batches, axis=1), axis=1) > 0).sum(axis=1) + 1
    return ShuffleQuality(
        displacement=float(np.abs(samples - np.arange(count)).mean() / count),
        neighbour_distance=float(np.abs(np.diff(samples)).mean() / count),
        neighbour_correlation=float(np.corrcoef(samples[:-1], samples[1:])[0, 1]),
        same_shard_pct=float(100 * (shards[:-1] == shards[1:]).mean()),
        spread=float(np.abs(np.diff(places)).mean() / count),
        shards_per_batch=float(distinct.mean()),
    )


def expected(num_shards: int, global_batch_size: int) -> ShuffleQuality:
    """The quality of a full permutation of many equal shards: two uniform places are a third apart."""
    return ShuffleQuality(
        displacement=1 / 3,
        neighbour_distance=1 / 3,
        neighbour_correlation=0.0,
        same_shard_pct=100 / num_shards,
        spread=1 / 3,
        shards_per_batch=num_shards * (1 - (1 - 1 / num_shards) ** global_batch_size),
    )


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
