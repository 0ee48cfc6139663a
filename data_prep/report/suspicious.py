"""Shards that are unlike the others of their source: where a server, a disk or a night went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MIN_SHARDS = 5
DEVIATIONS = 6.0
SCALE = 1.4826  # the median absolute deviation of a normal distribution, times this, is its standard deviation
YIELD_FLOOR = 0.05
SIZE_FLOOR = 0.15
MIX_FLOOR = 0.05
RULE = (
    f"Within a source of at least {MIN_SHARDS} shards, retries apart, a shard is listed when its yield, the mean size "
    f"of its samples, or its outcomes are farther from the source's median than {DEVIATIONS:g} robust standard "
    f"deviations (median absolute deviation x {SCALE}) and than {YIELD_FLOOR:.0%} of the rows, {SIZE_FLOOR:.0%} of the "
    f"median size, or {MIX_FLOOR:.0%} of the rows. Outcomes are the shares kept and failed by each reason; their "
    "distance is half the sum of the differences from the source's medians."
)


@dataclass(frozen=True)
class Suspicion:
    path: str
    source: str
    why: str


def suspicious(rows: Sequence[Mapping[str, Any]]) -> list[Suspicion]:
    """By the rule above, in manifest order.

    Args:
        rows: of the manifest; of each its path, source, listed, num_samples, filtered, bytes, failures and supersedes.
    """
    groups: dict[tuple[str, bool], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["source"], bool(row.get("supersedes"))), []).append(row)
    found = [suspicion for group in groups.values() if len(group) >= MIN_SHARDS for suspicion in _of_group(group)]
    position = {row["path"]: number for number, row in enumerate(rows)}
    return sorted(found, key=lambda suspicion: position[suspicion.path])


def _of_group(rows: Sequence[Mapping[str, Any]]) -> list[Suspicion]:
    # Before the filters: they take from good shards too, and a tar has the size it was written with.
    kept = np.array(
        [row["num_samples"] + sum(f["count"] for f in row.get("filtered") or ()) for row in rows], dtype=float
    )
    listed = np.array([row["listed"] for row in rows], dtype=float)
    yields = kept / np.maximum(listed, 1)
    sizes = np.array([row["bytes"] for row in rows], dtype=float) / np.maximum(kept, 1) / 1024
    mixes = _outcomes(rows, yields, listed)
    distances = 0.5 * np.abs(mixes - np.median(mixes, axis=0)).sum(axis=1)
    reasons: dict[int, list[str]] = {}
    for index in _far(yields, YIELD_FLOOR):
        reasons.setdefault(index, []).append(f"yield {yields[index]:.1%}, median {np.median(yields):.1%}")
    for index in _far(np.where(kept > 0, sizes, np.median(sizes)), SIZE_FLOOR * float(np.median(sizes))):
        reasons.setdefault(index, []).append(f"{sizes[index]:.1f} KiB a sample, median {np.median(sizes):.1f}")
    for index in _far(distances, MIX_FLOOR):
        if distances[index] > np.median(distances):
            reasons.setdefault(index, []).append(
                f"outcomes {distances[index]:.1%} from the median: {_most_unlike(rows, index)}"
            )
    return [Suspicion(rows[i]["path"], rows[i]["source"], "; ".join(why)) for i, why in sorted(reasons.items())]


def _far(values: np.ndarray, floor: float) -> list[int]:
    distance = np.abs(values - np.median(values))
    bound = max(DEVIATIONS * SCALE * float(np.median(distance)), floor)
    return [int(index) for index in np.flatnonzero(distance > bound)]


def _outcomes(rows: Sequence[Mapping[str, Any]], yields: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """(shards, 1 + reasons): the share kept, and that failed by each reason."""
    names = sorted({failure["reason"] for row in rows for failure in row["failures"]})
    shares = np.zeros((len(rows), 1 + len(names)))
    shares[:, 0] = yields
    for number, row in enumerate(rows):
        for failure in row["failures"]:
            shares[number, 1 + names.index(failure["reason"])] = failure["count"] / max(listed[number], 1)
    return shares


def _most_unlike(rows: Sequence[Mapping[str, Any]], index: int) -> str:
    failures = sorted(rows[index]["failures"], key=lambda failure: -failure["count"])
    listed = max(rows[index]["listed"], 1)
    return ", ".join(f"{failure['reason']} {failure['count'] / listed:.1%}" for failure in failures[:2]) or "no failure"
