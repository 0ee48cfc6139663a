"""The rules that judge a sample without knowing the rest of the corpus, applied to a shard's features in a worker."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.filters.evaluation_sets import nearest
from data_prep.filters.features import perceptual_hashes
from data_prep.filters.sample_rules import captions_fault, image_fault
from data_prep.filters.settings import NUMBERS, FilterSettings


@dataclass(frozen=True)
class Judge:
    """What is needed to judge a shard: a few numbers, and two files that every worker reads once."""

    settings: FilterSettings
    common_captions: Path
    """.npy of the ascending hashes of captions that too many images share."""
    evaluation: Path | None
    """.npy of the hashes of evaluation images."""

    def faults(self, table: pa.Table) -> list[dict[str, Any] | None]:
        """For each row of a shard's features its fault, as `removed/` lists it, or None when it passes."""
        contaminated: dict[int, dict[str, Any]] = {}
        if self.evaluation is not None and self.settings.on("decontamination"):
            words, flat = perceptual_hashes(table)
            images, apart = nearest(words, self.evaluation, self.settings.decontaminate_distance)
            for row in np.flatnonzero((images >= 0) & ~flat).tolist():
                contaminated[row] = {
                    "rule": "decontamination",
                    "image": int(images[row]),
                    "distance": int(apart[row]),
                }
        common = _load_common(self.common_captions)
        sizes = zip(table["original_width"].to_pylist(), table["original_height"].to_pylist(), strict=True)
        captions = zip(table["captions"].to_pylist(), table["caption_hashes"].to_pylist(), strict=True)
        found: list[dict[str, Any] | None] = []
        for row, (size, texts) in enumerate(zip(sizes, captions, strict=True)):
            if row in contaminated:
                found.append(contaminated[row])
                continue
            fault = image_fault(*size, self.settings) or captions_fault(*texts, common, self.settings)
            found.append(None if fault is None else {"rule": fault[0], "detail": fault[1]})
        return found


@dataclass(frozen=True)
class JudgeTask:
    """One shard's features to judge."""

    judge: Judge
    features: Path


@dataclass(frozen=True)
class Judged:
    """What the main process keeps of a shard."""

    rules: np.ndarray
    """(n,) uint8: number of the rule that drops the sample, 0 for none."""
    image_sha256: np.ndarray
    """(n, 2) uint64: the first 128 bits."""
    words: np.ndarray
    """(n, 4) uint64: the perceptual hash."""
    flat: np.ndarray
    """(n,) bool: True for a flat image, which has no hash."""


def judge_shard(task: JudgeTask) -> Judged:
    """Apply the rules to a shard. Memory: one shard's features."""
    table = pq.read_table(task.features)
    rules = [0 if fault is None else NUMBERS[fault["rule"]] for fault in task.judge.faults(table)]
    packed = b"".join(value[:16] for value in table["image_sha256"].to_pylist())
    words, flat = perceptual_hashes(table)
    return Judged(np.array(rules, dtype=np.uint8), np.frombuffer(packed, dtype="<u8").reshape(-1, 2), words, flat)


@functools.lru_cache(maxsize=1)
def _load_common(path: Path) -> frozenset[int]:
    return frozenset(np.load(path).tolist())
