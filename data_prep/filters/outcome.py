"""Writes what a filter leaves: the manifest of what stays, and a line for everything that does not."""

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
    """(D,) int64 ascending: samples dropped for being like another."""
    leaders: np.ndarray
    """(D,) int64: the sample that each of them is like."""
    distances: np.ndarray
    """(D,) int64: in bits; 0 for the same stored image."""


@dataclass(frozen=True)
class _Names:
    """What a line calls the image that a dropped one is like."""

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
    """Write removed/ anew, then publish the manifest. Memory: one shard, and the keys of leaders.

    Args:
        features: a file for each shard of the sources, in their order.
    Raises: FolderError when a source's manifest was written again meanwhile.
    """
    leaders = np.unique(decisions.leaders)
    names = _Names(evaluation_names, leaders, _keys_of(leaders, features, decisions.starts))
    shutil.rmtree(corpus.removed, ignore_errors=True)  # `corpus.begin` has seen that it is ours
    corpus.removed.mkdir()
    writer = ManifestWriter(corpus.root)
    try:
        number = 0
        for source in sources:
            if file_sha256(source.manifest) != source.manifest_sha256:
                raise FolderError(f"{source.manifest} was written anew meanwhile", "run the same command again")
            for row in stream_manifest(source.manifest):
                part = slice(int(decisions.starts[number]), int(decisions.starts[number + 1]))
                # of a source that was filtered before: what is counted in the manifest is listed beside it
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
    """The row of a shard with what stays of it."""
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
    """What to say of each dropped sample of a shard, in the tar's order."""
    rules = decisions.rules[part]
    dropped = np.flatnonzero(rules)
    if not len(dropped):
        return []
    table = pq.read_table(features).take(pa.array(dropped))
    # The same rules on the same rows say again what they said when all were judged: no details of millions in memory.
    faults = judge.faults(table)
    lines = []
    for key, row, fault in zip(table["key"].to_pylist(), dropped.tolist(), faults, strict=True):
        line: dict[str, Any] = {"key": key, "rule": RULE_NAMES[int(rules[row])]}
        if rules[row] in DUPLICATES:
            place = int(np.searchsorted(decisions.duplicates, part.start + row))
            distance = int(decisions.distances[place])
            line |= _like(names.leader(int(decisions.leaders[place])), distance)
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
    """Keys of samples given ascending by number: some 40 bytes each."""
    shards = np.searchsorted(starts, samples, side="right") - 1
    keys = [pa.array([], pa.string())]
    for shard in np.unique(shards).tolist():
        column = pq.read_table(features[shard], columns=["key"])["key"].combine_chunks()
        keys.append(column.take(pa.array(samples[shards == shard] - starts[shard])))
    return pa.concat_arrays(keys)
