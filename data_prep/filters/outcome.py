"""Writes the outcome of a filter: the manifest of the samples that stay, and a line for every dropped one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import FolderError
from data_prep.filters.corpus import Corpus, Source
from data_prep.filters.judging import Judge
from data_prep.filters.perceptual_hash import NUM_BITS
from data_prep.filters.settings import NUMBERS
from data_prep.output.storage import file_sha256, publish, unpublished
from data_prep.shards.manifest import ManifestWriter, keys_digest, stream_manifest

RULE_NAMES = {number: rule for rule, number in NUMBERS.items()}
DUPLICATES = (NUMBERS["exact_duplicate"], NUMBERS["near_duplicate"])


@dataclass
class Decisions:
    """What became of every sample, numbered through all sources and shards."""

    starts: np.ndarray
    """(S + 1,) int64: shard s holds the samples starts[s] .. starts[s + 1] - 1."""
    rules: np.ndarray
    """(N,) uint8: number of the rule that dropped it, 0 when it stays."""
    duplicates: np.ndarray
    """(D,) int64 ascending: samples that were dropped as duplicates."""
    leaders: np.ndarray
    """(D,) int64: the sample that each of them duplicates."""
    distances: np.ndarray
    """(D,) int64: in bits; 0 for the same stored image."""


@dataclass(frozen=True)
class _Names:
    """Names of the images that dropped samples look like."""

    evaluation: pa.Array
    leaders: np.ndarray
    """(L,) int64 ascending."""
    leader_keys: pa.Array

    def leader(self, sample: int) -> str:
        return str(self.leader_keys[int(np.searchsorted(self.leaders, sample))])


def write_outcome(
    corpus: Corpus,
    sources: Sequence[Source],
    features: Sequence[Path],
    decisions: Decisions,
    judge: Judge,
    evaluation_names: pa.Array,
) -> None:
    """Replace removed/, then publish the manifest. Memory: one shard, and the keys of leaders.

    Args:
        features: a file for each shard of the sources, in their order.
    Raises: FolderError when a source's manifest was written during the filter.
    """
    leaders = np.unique(decisions.leaders)
    names = _Names(evaluation_names, leaders, _keys_of(leaders, features, decisions.starts))
    shutil.rmtree(corpus.removed, ignore_errors=True)  # `corpus.begin` has checked that it is ours
    corpus.removed.mkdir()
    writer = ManifestWriter(corpus.root)
    try:
        number = 0
        for source in sources:
            if file_sha256(source.manifest) != source.manifest_sha256:
                raise FolderError(f"{source.manifest} changed during the filter", "run the same command again")
            for row in stream_manifest(source.manifest):
                part = slice(int(decisions.starts[number]), int(decisions.starts[number + 1]))
                # the lines of an earlier filter of this source, whose counts are in its manifest
                lines = Corpus(source.folder).dropped(row["path"])
                lines += _lines(features[number], part, decisions, judge, names)
                _write_lines(corpus.lines_of(row["path"]), lines)
                writer.add(selected_row(row, decisions.rules[part], corpus.relative(source.folder / row["path"])))
                number += 1
    except BaseException:
        writer.discard()
        raise
    writer.publish()


def selected_row(row: dict[str, Any], rules: np.ndarray, path: str) -> dict[str, Any]:
    """The row of a shard with only the samples that stay."""
    stays = (rules == 0).tolist()
    selected = {
        name: [value for value, stay in zip(row[name], stays, strict=True) if stay]
        for name in ("keys", "offsets", "lengths")
    }
    counts = {item["rule"]: item["count"] for item in row["filtered"]}  # by an earlier filter of this source
    numbers, dropped = np.unique(rules[rules > 0], return_counts=True)
    for number, count in zip(numbers.tolist(), dropped.tolist(), strict=True):
        counts[RULE_NAMES[number]] = counts.get(RULE_NAMES[number], 0) + count
    kept = len(selected["keys"])
    return {
        **row,
        **selected,
        "path": path,
        "num_samples": kept,
        "yield": kept / row["listed"] if row["listed"] else 0.0,
        "filtered": [{"rule": rule, "count": count} for rule, count in sorted(counts.items())],
        "keys_sha256": row["keys_sha256"] if all(stays) else keys_digest(selected["keys"]),
    }


def _lines(features: Path, part: slice, decisions: Decisions, judge: Judge, names: _Names) -> list[dict[str, Any]]:
    """A line for each dropped sample of a shard, in the tar's order."""
    rules = decisions.rules[part]
    dropped = np.flatnonzero(rules)
    if not len(dropped):
        return []
    table = pq.read_table(features).take(pa.array(dropped))
    # Judge the dropped rows a second time, with the same result, instead of keeping millions of details in memory.
    faults = judge.faults(table)
    lines = []
    for key, row, fault in zip(table["key"].to_pylist(), dropped.tolist(), faults, strict=True):
        line: dict[str, Any] = {"key": key, "rule": RULE_NAMES[int(rules[row])]}
        if rules[row] in DUPLICATES:
            position = int(np.searchsorted(decisions.duplicates, part.start + row))
            distance = int(decisions.distances[position])
            line |= _like(names.leader(int(decisions.leaders[position])), distance)
        else:
            assert fault is not None and fault["rule"] == line["rule"]
            image = fault.get("image")
            line |= fault if image is None else _like(str(names.evaluation[image]), fault["distance"])
        lines.append(line)
    return lines


def _like(name: str, distance: int) -> dict[str, Any]:
    return {"detail": f"{distance} of {NUM_BITS} bits from {name}", "like": name, "distance": distance}


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    if not lines:
        return
    written = unpublished(path)
    with open(written, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    publish(written, path)


def _keys_of(samples: np.ndarray, features: Sequence[Path], starts: np.ndarray) -> pa.Array:
    """Keys of samples, which are given by ascending number. Memory: some 40 bytes each."""
    shards = np.searchsorted(starts, samples, side="right") - 1
    keys = [pa.array([], pa.string())]
    for shard in np.unique(shards).tolist():
        column = pq.read_table(features[shard], columns=["key"])["key"].combine_chunks()
        keys.append(column.take(pa.array(samples[shards == shard] - starts[shard])))
    return pa.concat_arrays(keys)
