"""Opens every shard, checks every sample, and writes the manifest of what is whole."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from data_prep.datasheet import DATASHEET_NAME, write_datasheet
from data_prep.errors import AccountingError, InputError
from data_prep.job import Folder, Job, read_job, retry_rounds
from data_prep.key_hashes import key_hash, repeated_keys
from data_prep.manifest import ManifestWriter
from data_prep.places import file_sha256, move
from data_prep.shard_reader import read_samples
from data_prep.shard_writer import ShardRecord, read_record
from data_prep.worker_pool import in_order
from samples.quote import quote
from samples.record import check_meta
from samples.shard import StoredSample
from samples.tar import TarDamage

MAX_PROBLEMS_PER_SHARD = 20


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where: `sample` is a key or member name, empty for the shard as a whole."""

    shard: str
    sample: str
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}: {self.sample}: {self.reason}" if self.sample else f"{self.shard}: {self.reason}"


@dataclass
class ShardCheck:
    problems: list[Problem]
    row: dict[str, Any] | None = None
    """The shard's row of the manifest; None when it has a problem."""
    num_samples: int = 0
    num_decoded: int = 0
    key_hashes: bytes = b""
    """8 bytes a key."""


@dataclass
class Verification:
    problems: list[Problem] = field(default_factory=list)
    num_shards: int = 0
    num_samples: int = 0
    num_decoded: int = 0
    manifest: Path | None = None
    """None when none was written."""
    withdrawn: Path | None = None
    """Where an earlier manifest went that named a shard which is no longer whole, or not there."""

    def add(self, check: ShardCheck) -> None:
        self.problems += check.problems
        self.num_samples += check.num_samples
        self.num_decoded += check.num_decoded


@dataclass(frozen=True)
class ShardTask:
    """One shard to check; `listed` is the number of rows it must account for, when that is known."""

    root: Path
    tar: str
    listed: int | None
    fraction: float
    seed: int
    inside: str = ""
    """From the manifest's folder to `root`: `retry-01/` for a retry."""

    @property
    def path(self) -> str:
        """As the manifest has it."""
        return f"{self.inside}shards/{self.tar}"


def verify_folder(
    root: Path,
    pool: Executor,
    processes: int,
    *,
    fraction: float = 1.0,
    seed: int = 0,
    keep_going: bool = False,
    complete: bool = True,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Check every shard of a folder, those of its retry rounds too, and write one manifest when nothing is wrong.

    Every tar is read whole: structure, pairs, fields, sha256 of every image. A seeded `fraction` of the images is
    decoded as well. Memory: a few shards' keys and 8 bytes a sample.

    Args:
        keep_going: write a manifest of the good shards even when others are bad or missing.
        complete: a shard of the job that is not there is a problem.
    Raises: InputError when there is no folder of shards.
    """
    folder = Folder(root)
    if not folder.shards.is_dir():
        raise InputError(f"{root} holds no shards/", "give the --out folder of a download or pack")
    tasks, problems = _survey_all(folder, fraction, seed, complete)
    result = Verification(problems=problems, num_shards=len(tasks))
    hashes: dict[str, bytes] = {}
    writer = ManifestWriter(root)
    try:
        checks = in_order(pool, check_shard, tasks, ahead=2 * processes + 2)
        for number, (task, check) in enumerate(zip(tasks, checks, strict=True), start=1):
            result.add(check)
            if check.row is not None:
                writer.add(check.row)
                hashes[task.path] = check.key_hashes
            on_shard(number, len(tasks))
        duplicates = [
            (path, Problem(Path(path).name, key, f"duplicate key: also in {Path(first).name}"))
            for path, key, first in repeated_keys(root, hashes)
        ]
    except BaseException:
        writer.discard()
        raise
    result.problems += [problem for _, problem in duplicates]
    if result.problems and not keep_going:
        writer.discard()
        result.withdrawn = withdraw(writer.path)
    else:
        writer.publish(leave_out={path for path, _ in duplicates})
        try:
            write_datasheet(root)
        except AccountingError:
            withdraw(writer.path)
            raise
        result.manifest = writer.path
    return result


def withdraw(manifest: Path) -> Path | None:
    """Training believes a manifest, so one that is known to be wrong must not stay where it is read."""
    datasheet = manifest.with_name(DATASHEET_NAME)
    if datasheet.exists():
        move(datasheet, datasheet.with_name(f"{datasheet.name}.withdrawn"))
    if not manifest.exists():
        return None
    aside = manifest.with_name(f"{manifest.name}.withdrawn")
    move(manifest, aside)
    return aside


def check_shard(task: ShardTask) -> ShardCheck:
    """All that is wrong with one shard, or its row of the manifest."""
    path = Folder(task.root).shards / task.tar
    check = ShardCheck([])
    record = _read_record(path, check.problems)
    chooser = random.Random(f"{task.seed}:{task.tar}")
    samples: list[tuple[str, int, int]] = []
    seen: set[str] = set()
    digest = hashlib.sha256()
    sha256: str | None
    try:
        for sample in read_samples(path, digest):
            decode = chooser.random() < task.fraction
            check.num_decoded += decode
            reasons = check_sample(sample, decode)
            if sample.key in seen:
                reasons.append("duplicate key")
            seen.add(sample.key)
            samples.append((sample.key, sample.offset, sample.length))
            check.problems += [Problem(task.tar, sample.key, reason) for reason in reasons]
        sha256 = digest.hexdigest()
    except TarDamage as damage:
        check.problems.append(Problem(task.tar, damage.member, damage.reason))
        sha256 = _sha256_of_damaged(path)
    check.num_samples = len(samples)
    if record is not None:
        reasons = list(_check_record(path, record, task, len(samples), sha256))
        check.problems += [Problem(task.tar, "", reason) for reason in reasons]
    if len(check.problems) > MAX_PROBLEMS_PER_SHARD:
        more = len(check.problems) - MAX_PROBLEMS_PER_SHARD
        check.problems[MAX_PROBLEMS_PER_SHARD:] = [Problem(task.tar, "", f"and {more} more")]
    if record is not None and not check.problems:
        check.row = _manifest_row(task.path, record, samples)
        check.key_hashes = b"".join(key_hash(key) for key, _, _ in samples)
    return check


def _survey_all(folder: Folder, fraction: float, seed: int, complete: bool) -> tuple[list[ShardTask], list[Problem]]:
    """Every shard to check, the first job's and then round by round, and what the surveys found wrong."""
    tasks, problems = [], []
    for place in (folder, *retry_rounds(folder)):
        job = read_job(place)
        tars, wrong = _survey(place, job, complete)
        inside = "" if place is folder else f"{place.root.name}/"
        listed = _listed_by_name(job)
        tasks += [ShardTask(place.root, tar, listed(tar), fraction, seed, inside) for tar in tars]
        problems += wrong
    return tasks, problems


def _survey(folder: Folder, job: Job | None, complete: bool) -> tuple[list[str], list[Problem]]:
    """Names of the tars, and what does not belong in the folder or is missing from it."""
    present = sorted(path.name for path in folder.shards.iterdir()) if folder.shards.is_dir() else []
    tars = [name for name in present if name.endswith(".tar") and not name.startswith(".")]
    records = {f"{tar[:-4]}.json" for tar in tars}
    problems = []
    for name in present:
        if name.startswith(".") and name.endswith(".tmp"):
            problems.append(Problem(name, "", "left by an interrupted write: run the same command again"))
        elif name not in records and not (name.endswith(".tar") and name in tars):
            reason = "record without its tar" if name.endswith(".json") else "foreign file: not written by data_prep"
            problems.append(Problem(name, "", reason))
    if job is not None:
        expected = {f"{job.shard_name(index)}.tar" for index in range(job.num_shards)}
        problems += [Problem(tar, "", "foreign shard: not of this job") for tar in tars if tar not in expected]
        if complete:
            problems += [
                Problem(tar, "", f"missing: run {'`data_prep retry`' if job.round else 'the same command'} again")
                for tar in sorted(expected - set(tars))
            ]
    return tars, problems


def _listed_by_name(job: Job | None) -> Callable[[str], int | None]:
    def listed(tar: str) -> int | None:
        number = tar[:-4].rpartition("-")[2]
        if job is None or not number.isdigit() or int(number) >= job.num_shards:
            return None
        return job.rows_in_shard(int(number))

    return listed


def _read_record(path: Path, problems: list[Problem]) -> ShardRecord | None:
    record = path.with_suffix(".json")
    if not record.exists():
        problems.append(Problem(path.name, "", f"foreign or unfinished tar: no record {record.name} beside it"))
        return None
    try:
        return read_record(record)
    except ValueError as error:
        problems.append(Problem(path.name, "", str(error)))
        return None


def _sha256_of_damaged(path: Path) -> str | None:
    """Says whether the tar was damaged after it was written; None where it cannot be read at all."""
    try:
        return file_sha256(path)
    except OSError:
        return None


def _check_record(
    path: Path, record: ShardRecord, task: ShardTask, num_samples: int, sha256: str | None
) -> Iterable[str]:
    if record.name != path.stem:
        yield f"its record is of {quote(record.name)}"
    if sha256 is not None and sha256 != record.sha256:
        yield f"sha256 of the tar is {sha256[:12]}, recorded when it was written: {record.sha256[:12]}"
    elif sha256 is not None and num_samples != record.kept:
        yield f"holds {num_samples} samples, its record says {record.kept}"
    if record.kept + sum(record.failed.values()) != record.listed:
        yield f"{record.kept} kept + {sum(record.failed.values())} failed are not {record.listed} listed"
    if record.supersedes and sum(record.supersedes.values()) != record.listed:
        yield f"retries {sum(record.supersedes.values())} failures with {record.listed} rows"
    if task.listed is not None and record.listed != task.listed:
        yield f"accounts for {record.listed} rows of {task.listed}"


def check_sample(sample: StoredSample, decode: bool) -> list[str]:
    """What is wrong with one sample: its JSON, its captions, its image's hash, and with `decode` its image."""
    record, faults = check_meta(sample.meta, sample.key, sample.image)
    return faults if faults or not decode else _decode(sample.image, (record["width"], record["height"]))


def _decode(image: bytes, size: tuple[int, int]) -> list[str]:
    """`size`: width and height as the sample's record states them."""
    try:
        with Image.open(io.BytesIO(image), formats=("JPEG",)) as decoded:
            if decoded.size != size:  # before a pixel is decoded: the record's size is within bounds
                return [f"image is {decoded.width} x {decoded.height}, its JSON says {size[0]} x {size[1]}"]
            decoded.load()
            return [] if decoded.mode == "RGB" else [f"image is {decoded.mode}, not RGB"]
    except MemoryError:
        raise
    except Exception as error:  # a decoder of damaged bytes raises many kinds
        return [f"image cannot be decoded: {type(error).__name__}: {quote(error)}"]


def _manifest_row(path: str, record: ShardRecord, samples: list[tuple[str, int, int]]) -> dict[str, Any]:
    return {
        "path": path,
        "source": record.source,
        "num_samples": record.kept,
        "bytes": record.bytes,
        "sha256": record.sha256,
        "keys": [key for key, _, _ in samples],
        "offsets": [offset for _, offset, _ in samples],
        "lengths": [length for _, _, length in samples],
        "listed": record.listed,
        "yield": record.kept / record.listed if record.listed else 0.0,
        "failures": [{"reason": reason, "count": count} for reason, count in sorted(record.failed.items())],
        "supersedes": [{"reason": reason, "count": count} for reason, count in sorted(record.supersedes.items())],
        "tools": json.dumps(record.tools, sort_keys=True),
        "arguments": json.dumps(record.arguments, sort_keys=True),
        "created": record.created,
    }
