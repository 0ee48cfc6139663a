"""The output folder: its files, the job it belongs to, and the locks that let one process at a time write to it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from base import atomic_file
from data_prep.errors import FolderError
from data_prep.output.ownership import check_new, check_work
from data_prep.output.parts import WHOLE, Part
from data_prep.output.storage import is_remote
from samples.quote import quote

JOB_VERSION = 1
IN_WORK = ("rows.parquet", "members.parquet", "progress.json", "img2dataset.log", "excluded")
"""Names that a job writes into the work folder, after its lock."""
OUTPUTS = ("shards", "failures", "report.json", "manifest.parquet", "datasheet.json", "excluded", "corpus.json")
"""Names that a job writes into its folder after job.json, or a filter into its own."""


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """How stored images are made; part of a job, since it decides the bytes of its shards."""

    image_size: int = 288
    """Shortest side of a stored image; smaller originals keep their size."""
    jpeg_quality: int = 95
    """Quality of the stored JPEG."""
    max_pixels: int = 100_000_000
    """Originals with more pixels are refused before they are decoded."""


@dataclass(frozen=True)
class Folder:
    """Layout of `--out DIR`: shards and records to keep, and `.work`, which may be deleted when a job is complete."""

    root: Path
    part: Part = WHOLE
    """The share of the shards this process makes. Parts share all but `.work`, where each has its own folder."""
    work_root: Path | None = None
    """The folder on this machine that replaces `.work` where `root` is in a store."""

    @property
    def shards(self) -> Path:
        """NAME.tar and its record NAME.json. A tar without a record is not a shard."""
        return self.root / "shards"

    @property
    def failures(self) -> Path:
        """NAME.jsonl: every row of that shard that did not become a sample, with its reason."""
        return self.root / "failures"

    @property
    def report(self) -> Path:
        return self.root / "report.json"

    @property
    def job(self) -> Path:
        return self.root / "job.json"

    @property
    def all_work(self) -> Path:
        """The work folder of all parts together."""
        return self.work_root or self.root / ".work"

    @property
    def work(self) -> Path:
        return self.all_work if self.part.is_whole else self.all_work / self.part.name

    @property
    def rows(self) -> Path:
        """The normalised list, one row group for each shard of `part`."""
        return self.work / "rows.parquet"

    @property
    def raw(self) -> Path:
        """What img2dataset wrote, one folder a launch, until it is converted."""
        return self.work / "raw"

    @property
    def log(self) -> Path:
        return self.work / "img2dataset.log"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What makes two runs the same job: resuming with any other value would mix two corpora."""

    kind: str
    """download, pack or retry."""
    source: str
    """Name of the source; begins every key and shard name."""
    inputs_sha256: str
    """Hash of the listed files and of the settings that decide how they are read."""
    shard_size: int
    """Rows of the list a shard accounts for."""
    images: ImageSettings
    num_rows: int = 0
    round: int = 0
    """Number of a retry, from 1; 0 for a job that is none."""
    flags: dict[str, Any] = field(default_factory=dict)
    """Values of the other flags that decide what becomes of a row; empty for a job from before they were recorded."""

    @property
    def num_shards(self) -> int:
        return math.ceil(self.num_rows / self.shard_size)

    def shard_name(self, index: int) -> str:
        return f"{self.source}-retry{self.round:02d}-{index:05d}" if self.round else f"{self.source}-{index:05d}"

    def rows_in_shard(self, index: int) -> int:
        return min(self.shard_size, self.num_rows - index * self.shard_size)

    def key(self, row: int) -> str:
        return f"{self.source}-{row:09d}"


MAY_GROW = {"--images"}
"""Flags that may get more values at their end on a later start: what was found before is still found first."""
_WHAT = {
    "kind": "the command",
    "source": "--source",
    "inputs_sha256": "the list",
    "shard_size": "--shard-size",
    "images.image_size": "--image-size",
    "images.jpeg_quality": "--jpeg-quality",
    "images.max_pixels": "--max-pixels",
}


def hash_inputs(paths: Sequence[Path], reading: dict[str, Any]) -> str:
    """sha256 over the bytes of the files and over the settings that decide how they are read."""
    digest = hashlib.sha256(json.dumps(reading, sort_keys=True).encode())
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def read_job(folder: Folder) -> Job | None:
    """The job that this folder belongs to; None for a folder that is new or holds shards from elsewhere."""
    if not folder.job.exists():
        return None
    try:
        fields = json.loads(folder.job.read_text(encoding="utf-8"))
        if fields.pop("version") != JOB_VERSION:
            raise ValueError("another version")
        return Job(**{**fields, "images": ImageSettings(**fields["images"])})
    except (ValueError, KeyError, TypeError) as error:
        raise FolderError(f"{folder.job} is not readable: {error}", "restore it, or use another --out") from error


def retry_rounds(folder: Folder) -> list[Folder]:
    """The retry rounds in a job's folder, in their order: each is the folder of a job."""
    rounds = [path.parent for path in folder.root.glob("retry-*/job.json") if path.parent.name[6:].isdigit()]
    return [Folder(root) for root in sorted(rounds, key=lambda root: int(root.name[6:]))]


def check_same_job(folder: Folder, wanted: Job) -> Job | None:
    """The job that the folder belongs to, checked to be the wanted one; None for a new folder.

    Raises: FolderError when the folder's job has another list, shard size or encoding, or it holds others' files.
    """
    recorded = read_job(folder)
    if recorded is None:
        check_new(folder.root, folder.job, OUTPUTS)
        return None
    for what, before, now in _differences(recorded, wanted):
        if what == "the list":
            raise FolderError(
                f"{folder.root} was started with another list (or other columns or exclusions): sha256 {before[:12]}, "
                f"now {now[:12]}",
                "give the same --urls / --annotations, columns and --exclude-... to resume, or another --out",
            )
        raise FolderError(
            f"{folder.root} was started with {what} {_shown(before)}, now {_shown(now)}",
            f"use {what} {_shown(before)} to resume, or another --out",
        )
    return recorded


def _differences(recorded: Job, wanted: Job) -> Iterator[tuple[str, Any, Any]]:
    """(flag, before, now) of each difference; flags come before the hash of the list, which explains less."""
    for flag, now in wanted.flags.items():
        before = recorded.flags.get(flag, now)
        if before != now and not (flag in MAY_GROW and now[: len(before)] == before):
            yield flag, before, now
    for name, what in _WHAT.items():
        before, now = _field(recorded, name), _field(wanted, name)
        if before != now:
            yield what, before, now


def _shown(value: Any) -> str:
    """A flag's value as a user types it."""
    return quote(" ".join(map(str, value)) if isinstance(value, list) else value) or "''"


def _field(job: Job, dotted: str) -> Any:
    value: Any = job
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def write_job(folder: Folder, job: Job) -> None:
    write_json(folder.job, {"version": JOB_VERSION, **asdict(job)})


def write_json(path: Path, content: Any) -> None:
    """Write a file atomically: it is there whole, or as it was before."""
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if is_remote(path):
        path.write_text(text, encoding="utf-8")
        return
    # The process id is not enough: a part on another machine may have the same.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    atomic_file.write_text(path, text, temporary=temporary)


@contextlib.contextmanager
def exclusive(folder: Folder) -> Iterator[None]:
    """Lock the folder for this process; the lock ends with the process, however that ends."""
    if not is_remote(folder.all_work) and not folder.job.exists():
        check_work(folder.all_work, IN_WORK)
    try:
        for needed in (folder.root, folder.shards, folder.failures, folder.work, folder.raw):
            if not is_remote(needed):
                needed.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"cannot create {folder.root}: {error.strerror}", "choose another --out") from error
    if is_remote(folder.root):
        _check_work_belongs(folder)
    with locked(folder.work / "lock", folder.root):
        yield


@contextlib.contextmanager
def locked(file: Path, root: Path) -> Iterator[None]:
    """Hold a lock file of the folder `root`; the lock ends with the process, however that ends.

    Raises: FolderError when another process holds it.
    """
    with open(file, "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if not _cannot_lock(error, root):
                raise FolderError(
                    f"another data_prep is writing to {root}", "wait until it has ended, or use another --out"
                ) from error
        yield


def _check_work_belongs(folder: Folder) -> None:
    """The lists in a work folder belong to one storage location; another one must not read them as its own."""
    owner = folder.all_work / "out.txt"
    if not owner.exists():
        owner.write_text(f"{folder.root}\n", encoding="utf-8")
    elif (recorded := owner.read_text(encoding="utf-8").strip()) != str(folder.root):
        raise FolderError(
            f"{folder.all_work} is the work folder of {recorded}", f"give another --work for {folder.root}"
        )


def _cannot_lock(error: OSError, root: Path) -> bool:
    """Whether the file system supports no locks, as opposed to another process holding this one; prints a note then."""
    if error.errno in (errno.EAGAIN, errno.EACCES):
        return False
    print(
        f"note: the file system of {root} supports no locks ({error.strerror}): "
        "make sure that no two processes make the same shards",
        file=sys.stderr,
    )
    return True


@contextlib.contextmanager
def claimed_shards(folder: Folder, job: Job) -> Iterator[None]:
    """Lock the shards of `folder.part` for this process: no other may write them, even one that cuts the job otherwise.

    One byte is locked for each shard, by POSIX locks, which network file systems support. They end with the process.
    """
    with open(folder.all_work / "shards.lock", "ab") as locks:
        for shard in folder.part.shards(job.num_shards):
            try:
                fcntl.lockf(locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, shard)
            except OSError as error:
                if _cannot_lock(error, folder.root):
                    break
                raise FolderError(
                    f"another data_prep is making {job.shard_name(shard)} in {folder.root}",
                    "use the same number of parts for all that run at a time, and each part once; "
                    "or wait until the others have ended",
                ) from error
        yield


def default_source(path: Path) -> str:
    """A source's name from its list's: letters, digits and underscores."""
    name = "".join(character if character.isascii() and character.isalnum() else "_" for character in path.stem)
    return name.strip("_").lower() or "images"
