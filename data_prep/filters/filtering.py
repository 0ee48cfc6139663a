"""Runs a filter: features of every shard, then the rules that need the whole corpus, then the outcome."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from base.progress import Progress
from data_prep.accounts.datasheet import SourceAccount, shard_rows
from data_prep.errors import YieldError
from data_prep.filters.banding import first_of_equal
from data_prep.filters.corpus import (
    COMMON_CAPTIONS,
    EVALUATION,
    HASHES,
    Corpus,
    Shard,
    Source,
    begin,
    describe,
    finish,
    read_sources,
)
from data_prep.filters.evaluation_sets import EvaluationImages, EvaluationSet, hash_sets
from data_prep.filters.features import ShardTask, features_path, is_features_name, make_features
from data_prep.filters.judging import Judge, JudgeTask, judge_shard
from data_prep.filters.near_duplicates import find_followers
from data_prep.filters.outcome import RULE_NAMES, Decisions, selected_row, write_outcome
from data_prep.filters.settings import NUMBERS, FilterSettings
from data_prep.output.job import OUTPUTS
from data_prep.output.ownership import remove_leftovers
from data_prep.shards.manifest import stream_manifest
from data_prep.workers.worker_pool import in_order


@dataclass(frozen=True)
class Filtered:
    """The outcome of a filter."""

    accounts: dict[str, SourceAccount]
    """By source."""
    notes: tuple[str, ...]
    """Sentences about what the counts do not show."""


def filter_corpus(
    corpus: Corpus,
    folders: Sequence[Path],
    settings: FilterSettings,
    sets: Sequence[EvaluationSet],
    pool: Executor,
    processes: int,
    *,
    features: Path | None = None,
    dry_run: bool = False,
) -> Filtered:
    """Filter the folders into one corpus; the caller holds its lock (`corpus.exclusive`).

    The same inputs, rules and versions leave the same bytes, with any number of processes and any number of
    interruptions. Memory for N samples: some 80 N bytes of arrays, and what `find_followers` states.

    Args:
        features: folder for features to share with other corpora; by default one in the corpus.
        dry_run: count only. Features are stored, but no manifest and no corpus.json.
    """
    sources = read_sources(folders)
    stored = features or corpus.features
    stored.mkdir(parents=True, exist_ok=True)
    # Left by a killed run. Not in a shared folder of features, to which another filter may be writing right now.
    remove_leftovers(corpus.root, OUTPUTS.__contains__)
    remove_leftovers(corpus.features, is_features_name)
    evaluation = hash_sets(list(sets), stored, pool, processes)
    if not dry_run:
        begin(corpus, describe(corpus, sources, settings, sets, evaluation.digests))
    files = _make_all_features(sources, stored, pool, processes)
    judge = _prepare_judge(corpus, files, settings, evaluation)
    decisions, notes = _decide(corpus, sources, files, judge, pool, processes)
    notes += [f"set {name}: {n} flat images were not compared" for name, n in evaluation.num_flat.items() if n]
    _refuse_none(decisions)
    if dry_run:
        rows = _rows_as_if(sources, decisions)
    else:
        write_outcome(corpus, sources, files, decisions, judge, evaluation.names)
        finish(corpus, sources, notes)
        rows = shard_rows(corpus.manifest)
    accounts: dict[str, SourceAccount] = {}
    for row in rows:
        accounts.setdefault(row["source"], SourceAccount()).add(row)
    for name in (HASHES, COMMON_CAPTIONS, EVALUATION):
        (corpus.work / name).unlink(missing_ok=True)
    return Filtered(accounts, tuple(notes))


def _refuse_none(decisions: Decisions) -> None:
    """Raises: YieldError, with the rules that drop most, when no sample stays."""
    if np.count_nonzero(decisions.rules == 0):
        return
    numbers, counts = np.unique(decisions.rules, return_counts=True)
    most = sorted(zip(counts.tolist(), numbers.tolist(), strict=True), reverse=True)[:3]
    dropped = "; ".join(f"{count} {RULE_NAMES[number]}" for count, number in most)
    raise YieldError(
        f"none of {len(decisions.rules)} samples passes the rules: {dropped}", "loosen these rules, or turn them --off"
    )


def _shards(sources: Sequence[Source]) -> list[Shard]:
    return [shard for source in sources for shard in source.shards]


def _make_all_features(sources: Sequence[Source], folder: Path, pool: Executor, processes: int) -> list[Path]:
    """The file of features of each shard; missing ones are made."""
    files = [features_path(folder, s.tar, s.sha256, s.keys_sha256) for s in _shards(sources)]
    done = sum(s.num_samples for s, file in zip(_shards(sources), files, strict=True) if file.exists())
    progress = Progress("images", sum(source.num_samples for source in sources), done_before=done)
    for count in in_order(pool, make_features, _missing(sources, files), ahead=2 * processes):
        done += count
        progress.update(done)
    progress.finish(done)
    return files


def _missing(sources: Sequence[Source], files: Sequence[Path]) -> Iterator[ShardTask]:
    number = 0
    for source in sources:
        keys = stream_manifest(source.manifest, ("keys", "keys_sha256"))
        for shard, row in zip(source.shards, keys, strict=True):
            if not files[number].exists():
                wanted = tuple(row["keys"]) if row["keys_sha256"] else None
                yield ShardTask(shard.tar, shard.sha256, shard.num_samples, wanted, files[number])
            number += 1


def _prepare_judge(
    corpus: Corpus, files: Sequence[Path], settings: FilterSettings, evaluation: EvaluationImages
) -> Judge:
    """Store what every worker needs to know of the whole corpus: common captions, evaluation images."""
    common = corpus.work / COMMON_CAPTIONS
    np.save(common, _common_captions(files, settings))
    images = corpus.work / EVALUATION
    np.save(images, evaluation.words)
    return Judge(settings, common, images if len(evaluation.words) else None)


def _common_captions(files: Sequence[Path], settings: FilterSettings) -> np.ndarray:
    """Hashes of captions that too many images share. Memory: 24 bytes a caption while they are sorted."""
    if not settings.on("common_caption"):
        return np.empty(0, dtype=np.uint64)
    hashes = [np.empty(0, dtype=np.uint64)]
    for file in files:
        column = pq.read_table(file, columns=["caption_hashes"])["caption_hashes"].combine_chunks()
        of_file, samples = column.flatten().to_numpy(), pc.list_parent_indices(column).to_numpy()
        order = np.lexsort((of_file, samples))
        of_file, samples = of_file[order], samples[order]
        new = np.ones(len(of_file), dtype=bool)  # a caption that a sample has twice counts once
        new[1:] = (of_file[1:] != of_file[:-1]) | (samples[1:] != samples[:-1])
        hashes.append(of_file[new])
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    return values[counts > settings.max_images_per_caption]


def _decide(
    corpus: Corpus, sources: Sequence[Source], files: Sequence[Path], judge: Judge, pool: Executor, processes: int
) -> tuple[Decisions, list[str]]:
    settings = judge.settings
    starts = np.cumsum([0, *(shard.num_samples for shard in _shards(sources))])
    total = int(starts[-1])
    rules = np.zeros(total, dtype=np.uint8)
    flat = np.zeros(total, dtype=bool)
    images = np.zeros((total, 2), dtype="<u8")
    hashes = corpus.work / HASHES
    words = np.lib.format.open_memmap(hashes, mode="w+", dtype="<u8", shape=(total, 4))
    tasks = (JudgeTask(judge, file) for file in files)
    for number, judged in enumerate(in_order(pool, judge_shard, tasks, ahead=2 * processes)):
        part = slice(int(starts[number]), int(starts[number + 1]))
        rules[part], flat[part] = judged.rules, judged.flat
        images[part], words[part] = judged.image_sha256, judged.words

    leaders = np.full(total, -1, dtype=np.int64)
    distances = np.zeros(total, dtype=np.uint8)
    notes = []
    if settings.on("exact_duplicate"):
        rows = np.flatnonzero(rules == 0)
        first = rows[first_of_equal(images[rows])]
        again = first != rows
        rules[rows[again]], leaders[rows[again]] = NUMBERS["exact_duplicate"], first[again]
    del images
    if settings.on("near_duplicate"):
        rows = np.flatnonzero((rules == 0) & ~flat)
        found = find_followers(words, rows, settings.near_distance, corpus.work, pool, processes)
        follows = found.leaders >= 0
        rules[rows[follows]] = NUMBERS["near_duplicate"]
        leaders[rows[follows]] = rows[found.leaders[follows]]
        distances[rows[follows]] = found.distances[follows]
        if found.num_split:
            notes.append(f"{found.num_split} times a hash in a crowded bucket was compared with only a part of it")
        if num_flat := int(np.count_nonzero(flat & (rules == 0))):
            notes.append(f"{num_flat} kept images are flat: compared byte for byte only")
    duplicates = np.flatnonzero(leaders >= 0)
    return Decisions(starts, rules, duplicates, leaders[duplicates], distances[duplicates]), notes


def _rows_as_if(sources: Sequence[Source], decisions: Decisions) -> Iterator[dict[str, Any]]:
    """The rows that the manifest would have."""
    number = 0
    for source in sources:
        for row in stream_manifest(source.manifest):
            part = slice(int(decisions.starts[number]), int(decisions.starts[number + 1]))
            yield selected_row(row, decisions.rules[part], row["path"])
            number += 1
