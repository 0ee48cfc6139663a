"""Opens every shard, checks every sample, and writes a manifest of the whole shards."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.accounts.datasheet import DATASHEET_NAME, write_datasheet
from data_prep.errors import AccountingError, InputError
from data_prep.output.job import Folder
from data_prep.output.storage import file_sha256, is_gone, move
from data_prep.shards.manifest import ManifestWriter, stream_manifest
from data_prep.shards.reader import TarUnread, key_hash, read_samples, repeated_keys
from data_prep.shards.survey import Problem, ShardTask, Weight, survey
from data_prep.shards.writer import ShardRecord, read_record
from data_prep.workers.worker_pool import in_order
from samples.image import ImageRefused, decode, open_image, orientation
from samples.quote import quote
from samples.record import MAX_PIXELS, check_meta
from samples.shard import StoredSample
from samples.tar import TarDamage

MAX_PROBLEMS_PER_SHARD = 20
JPEGS = ("JPEG", "MPO")
"""Pillow's names for JPEG; MPO is a camera's JPEG with a second picture behind the first."""


@dataclass
class ShardCheck:
    problems: list[Problem]
    row: dict[str, Any] | None = None
    """The shard's row of the manifest; None when it has a problem."""
    num_samples: int = 0
    num_decoded: int = 0
    key_hashes: bytes = b""
    """8 bytes for each key."""


@dataclass
class Verification:
    problems: list[Problem] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    """Files in shards/ that are no shards; they are no problem."""
    num_shards: int = 0
    num_samples: int = 0
    num_decoded: int = 0
    manifest: Path | None = None
    """None when none was written."""
    stands: Path | None = None
    """An earlier manifest that stays: every shard it names is whole, or could not be read now."""
    withdrawn: Path | None = None
    """Where an earlier manifest was moved because it named a shard that is no longer whole, or is missing."""

    def add(self, check: ShardCheck) -> None:
        self.problems += check.problems
        self.num_samples += check.num_samples
        self.num_decoded += check.num_decoded


def verify_folder(
    root: Path,
    pool: Executor,
    processes: int,
    *,
    fraction: float = 1.0,
    seed: int = 0,
    keep_going: bool = False,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Check every shard of a folder, those of its retry rounds too, and write one manifest when all of them are whole.

    Every tar is read whole: structure, pairs, fields, captions, sha256 of every image. A seeded `fraction` of the
    images is decoded as well. Other files in shards/ do not keep the manifest from being written: foreign shards are
    reported as problems, the rest as strays. Memory: a few shards' keys and 8 bytes a sample.

    Args:
        keep_going: write a manifest of the good shards even when others are bad or missing; never one without a sample.
    Raises: InputError when there is no folder of shards; UnfinishedError when a shard changes during the check.
    """
    folder = Folder(root)
    if not folder.shards.is_dir():
        raise InputError(f"{root} holds no shards/", "give the --out folder of a download or pack")
    found = survey(folder, fraction, seed)
    tasks = found.tasks
    result = Verification(problems=found.problems, strays=found.strays, num_shards=len(tasks))
    hashes: dict[str, bytes] = {}
    known: dict[str, str | None] = {}  # sha256 of the whole shards by path, None of those that could not be read
    writer = ManifestWriter(root)
    try:
        checks = in_order(pool, check_shard, tasks, ahead=2 * processes + 2)
        for number, (task, check) in enumerate(zip(tasks, checks, strict=True), start=1):
            result.add(check)
            if check.row is not None:
                writer.add(check.row)
                hashes[task.path] = check.key_hashes
                known[task.path] = check.row["sha256"]
            elif all(problem.weight is Weight.UNREAD for problem in check.problems):
                known[task.path] = None
            on_shard(number, len(tasks))
        duplicates = [
            (path, Problem(Path(path).name, key, f"duplicate key: also in {Path(first).name}"))
            for path, key, first in repeated_keys(root, hashes)
        ]
    except BaseException:
        writer.discard()
        raise
    result.problems += [problem for _, problem in duplicates]
    repeated = {path for path, _ in duplicates}
    whole = all(problem.weight is Weight.FOREIGN for problem in result.problems)
    some = any(hashes.values())
    if whole and not some:
        result.problems.append(Problem(writer.path.name, "", "would name no sample: there is nothing to train on"))
    if some and (whole or keep_going):
        writer.publish(leave_out=repeated)
        try:
            write_datasheet(root)
        except AccountingError:
            withdraw(writer.path)
            raise
        result.manifest = writer.path
    else:
        writer.discard()
        if (whole and not some) or _is_untrue(
            writer.path, {path: sha256 for path, sha256 in known.items() if path not in repeated}
        ):
            result.withdrawn = withdraw(writer.path)
        elif writer.path.exists():
            result.stands = writer.path
    return result


def _is_untrue(manifest: Path, known: dict[str, str | None]) -> bool:
    """Whether an earlier manifest names a shard that is no longer whole, or has other bytes now.

    Args:
        known: sha256 of the whole shards by their path, None for those that could not be read.
    """
    if not manifest.exists():
        return False
    try:
        rows = [(row["path"], row["sha256"]) for row in stream_manifest(manifest, ("path", "sha256"))]
    except (InputError, KeyError):
        return True
    return any(path not in known or known[path] not in (None, sha256) for path, sha256 in rows)


def withdraw(manifest: Path) -> Path | None:
    """Move a wrong manifest and its datasheet aside: training trusts a manifest under its own name."""
    datasheet = manifest.with_name(DATASHEET_NAME)
    if datasheet.exists():
        move(datasheet, datasheet.with_name(f"{datasheet.name}.withdrawn"))
    if not manifest.exists():
        return None
    aside = manifest.with_name(f"{manifest.name}.withdrawn")
    move(manifest, aside)
    return aside


def check_shard(task: ShardTask) -> ShardCheck:
    """All problems of one shard, or, when there are none, its row of the manifest."""
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
            decoded = chooser.random() < task.fraction
            check.num_decoded += decoded
            reasons = check_sample(sample, decoded)
            if sample.key in seen:
                reasons.append("duplicate key")
            seen.add(sample.key)
            samples.append((sample.key, sample.offset, sample.length))
            check.problems += [Problem(task.tar, sample.key, reason) for reason in reasons]
        sha256 = digest.hexdigest()
    except TarDamage as damage:
        weight = Weight.UNREAD if isinstance(damage, TarUnread) else Weight.BROKEN
        check.problems.append(Problem(task.tar, damage.member, damage.reason, weight))
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


def _read_record(path: Path, problems: list[Problem]) -> ShardRecord | None:
    record = path.with_suffix(".json")
    try:
        return read_record(record)
    except FileNotFoundError:
        problems.append(Problem(path.name, "", f"foreign or unfinished tar: no record {record.name} beside it"))
        return None
    except OSError as error:
        reason = f"its record {record.name} cannot be read: {error.strerror or error}"
        problems.append(Problem(path.name, "", reason, Weight.BROKEN if is_gone(error) else Weight.UNREAD))
        return None
    except ValueError as error:
        problems.append(Problem(path.name, "", str(error)))
        return None


def _sha256_of_damaged(path: Path) -> str | None:
    """The hash that shows whether the tar was damaged after it was written; None where it cannot be read at all."""
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
        yield f"sha256 of the tar is {sha256[:12]}, recorded when it was written: {quote(record.sha256[:12])}"
    elif sha256 is not None and num_samples != record.kept:
        yield f"holds {num_samples} samples, {record.kept} by its record"
    if record.kept + sum(record.failed.values()) != record.listed:
        yield f"{record.kept} kept + {sum(record.failed.values())} failed are not {record.listed} listed"
    if record.supersedes and sum(record.supersedes.values()) != record.listed:
        yield f"retries {sum(record.supersedes.values())} failures with {record.listed} rows"
    if task.listed is not None and record.listed != task.listed:
        yield f"accounts for {record.listed} rows of {task.listed}"


def check_sample(sample: StoredSample, decoded: bool) -> list[str]:
    """Problems of one sample: of its JSON, its captions, its image's hash, and with `decoded` of its image."""
    record, faults = check_meta(sample.meta, sample.key, sample.image)
    return faults if faults or not decoded else _decode(sample.image, (record["width"], record["height"]))


def _decode(data: bytes, size: tuple[int, int]) -> list[str]:
    """`size`: width and height as the sample's record states them, within bounds."""
    try:
        image = open_image(data, max_pixels=MAX_PIXELS)
        if image.size != size:  # before a pixel is decoded
            return [f"image is {image.width} x {image.height}, {size[0]} x {size[1]} by its JSON"]
        decode(image)
    except ImageRefused as refused:
        return [f"image cannot be decoded: {refused}"]
    reasons = [] if image.format in JPEGS else [f"image is {image.format}, not JPEG"]
    if image.mode != "RGB":
        reasons.append(f"image is {image.mode}, not RGB")
    if orientation(image) != 1:
        reasons.append("image is not upright: its EXIF turns it")
    return reasons


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
