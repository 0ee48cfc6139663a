"""Reads what the stages left on the disk: scalars, retrieval tables, manifests."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True, kw_only=True)
class Ingestion:
    """What became of one list of URLs."""

    split: str
    listed: int
    kept: int
    failures: dict[str, int]
    """Count by reason; together with `kept` they make up `listed`."""
    num_shards: int
    bytes: int


def read_ingestion(split: str, manifest: Path) -> Ingestion:
    """Sums over the shards of a manifest."""
    rows = pq.read_table(manifest).to_pylist()
    failures: Counter[str] = Counter()
    for row in rows:
        for failure in row["failures"]:
            failures[failure["reason"]] += failure["count"]
    return Ingestion(
        split=split,
        listed=sum(row["listed"] for row in rows),
        kept=sum(row["num_samples"] for row in rows),
        failures=dict(failures.most_common()),
        num_shards=len(rows),
        bytes=sum(row["bytes"] for row in rows),
    )


def read_scalars(path: Path) -> dict[str, list[tuple[float, float]]]:
    """(step, value) of every scalar of a metrics.jsonl, in order; the last value of a step counts."""
    curves: dict[str, dict[int, float]] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            for name, value in row.items():
                if "/" in name and isinstance(value, int | float):
                    curves.setdefault(name, {})[row["step"]] = value
    return {name: [(step, points[step]) for step in sorted(points)] for name, points in curves.items()}


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def recalls(metrics: dict[str, float], prefix: str = "") -> list[float]:
    """R@1, R@5, R@10 of image to text, then of text to image; prefix `itc_` or `chance_` for those."""
    return [metrics[f"{prefix}{way}_recall_at_{k}"] for way in ("i2t", "t2i") for k in RECALL_AT]
