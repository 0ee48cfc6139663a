"""Checks a filtered corpus against the tars it names, as they are now, and its lists of dropped samples."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.accounts.datasheet import write_datasheet
from data_prep.errors import InputError
from data_prep.filters.corpus import Corpus
from data_prep.output.storage import file_sha256, is_gone
from data_prep.shards.manifest import ManifestWriter, keys_digest, stream_manifest
from data_prep.shards.reader import key_hash, read_samples
from data_prep.shards.survey import Problem, Weight
from data_prep.stages.verify import MAX_PROBLEMS_PER_SHARD, ShardCheck, Verification, check_sample, withdraw
from data_prep.workers.worker_pool import in_order
from samples.tar import TarDamage


@dataclass(frozen=True)
class _RowTask:
    root: Path
    row: dict[str, Any]
    fraction: float
    seed: int


def verify_corpus(
    corpus: Corpus,
    pool: Executor,
    processes: int,
    *,
    fraction: float = 1.0,
    seed: int = 0,
    keep_going: bool = False,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Check that every named tar has its hash, every named sample is at its offset, and each row adds up.

    A seeded `fraction` of the named images is decoded. The manifest stays as it is when all is well. When something is
    wrong, it is withdrawn, or with `keep_going` replaced by one of the good rows. Memory: a few shards' rows and
    8 bytes a sample.

    Raises: InputError when there is no manifest.
    """
    if not corpus.manifest.is_file():
        raise InputError(f"{corpus.root} has no manifest", "run the same `data_prep filter` again to resume it")
    total = sum(1 for _ in stream_manifest(corpus.manifest, ("path",)))
    result = Verification(num_shards=total)
    hashes: list[np.ndarray] = []
    good = ManifestWriter(corpus.root)
    try:
        tasks = (_RowTask(corpus.root, row, fraction, seed) for row in stream_manifest(corpus.manifest))
        for number, check in enumerate(in_order(pool, check_row, tasks, ahead=2 * processes + 2), start=1):
            result.add(check)
            if check.row is not None:
                good.add(check.row)
                hashes.append(np.frombuffer(check.key_hashes, dtype=np.uint64))
            on_shard(number, total)
        keys = np.sort(np.concatenate([np.empty(0, dtype=np.uint64), *hashes]))
        twice = int(np.count_nonzero(keys[1:] == keys[:-1]))
        if twice:
            result.problems.append(Problem(corpus.manifest.name, "", f"{twice} keys are used twice"))
        if not result.problems:
            good.discard()
            result.manifest = corpus.manifest
        elif keep_going and not twice:
            good.publish()
            write_datasheet(corpus.root)
            result.manifest = corpus.manifest
        elif all(problem.weight is Weight.UNREAD for problem in result.problems):
            good.discard()
            result.stands = corpus.manifest
        else:
            good.discard()
            result.withdrawn = withdraw(corpus.manifest)
    except BaseException:
        good.discard()
        raise
    return result


def check_row(task: _RowTask) -> ShardCheck:
    """All problems of one row of the manifest, its tar and its list of dropped samples."""
    row = task.row
    tar = task.root / row["path"]
    check = ShardCheck([Problem(tar.name, "", reason) for reason in _check_sums(task.root, row)])
    try:
        sha256 = file_sha256(tar)
    except FileNotFoundError:
        check.problems.append(Problem(tar.name, "", f"missing: {tar}"))
        return check
    except OSError as error:
        weight = Weight.BROKEN if is_gone(error) else Weight.UNREAD
        check.problems.append(Problem(tar.name, "", f"cannot be read: {error.strerror or error}", weight))
        return check
    if sha256 != row["sha256"]:
        reason = f"sha256 of the tar is {sha256[:12]}, filtered when it was {row['sha256'][:12]}"
        check.problems.append(Problem(tar.name, "", reason))
        return check
    named = zip(row["keys"], row["offsets"], row["lengths"], strict=True)
    missing = {key: (offset, length) for key, offset, length in named}
    chooser = random.Random(f"{task.seed}:{tar.name}")
    try:
        for sample in read_samples(tar):
            position = missing.pop(sample.key, None)
            if position is None:
                continue
            decode = chooser.random() < task.fraction
            check.num_decoded += decode
            reasons = check_sample(sample, decode)
            if position != (sample.offset, sample.length):
                reasons.append(f"is at byte {sample.offset}, {position[0]} by the manifest")
            check.problems += [Problem(tar.name, sample.key, reason) for reason in reasons]
    except TarDamage as damage:
        check.problems.append(Problem(tar.name, damage.member, damage.reason))
    check.problems += [Problem(tar.name, key, "named by the manifest, not in the tar") for key in missing]
    check.num_samples = row["num_samples"]
    if not check.problems:
        check.row = row
        check.key_hashes = b"".join(map(key_hash, row["keys"]))
    del check.problems[MAX_PROBLEMS_PER_SHARD:]
    return check


def _check_sums(root: Path, row: dict[str, Any]) -> Iterator[str]:
    kept, failed = row["num_samples"], sum(item["count"] for item in row["failures"])
    filtered = Counter({item["rule"]: item["count"] for item in row["filtered"]})
    if not kept == len(row["keys"]) == len(row["offsets"]) == len(row["lengths"]):
        yield f"{kept} samples, but {len(row['keys'])} keys in the manifest"
    if kept + failed + filtered.total() != row["listed"]:
        yield f"{kept} kept + {failed} failed + {filtered.total()} filtered are not {row['listed']} listed"
    if row["keys_sha256"] is not None and row["keys_sha256"] != keys_digest(row["keys"]):
        yield "the manifest's keys are not those of its keys_sha256"
    corpus = Corpus(root)
    dropped = Counter(line["rule"] for line in corpus.dropped(row["path"]))
    if dropped != filtered:
        yield f"{dict(filtered)} were filtered, {corpus.lines_of(row['path'])} lists {dict(dropped)}"
