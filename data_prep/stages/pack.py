"""`data_prep pack` and `import`: images on this machine -> shards like those of `download`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from base.progress import Progress
from data_prep.errors import InputError
from data_prep.lists.row_list import ListedImage, read_shard_rows
from data_prep.output.job import Folder, ImageSettings, Job
from data_prep.output.part_progress import PartProgress
from data_prep.shards.image_encoding import EncodedImage, encode_image
from data_prep.shards.writer import FetchResult, ShardRecord, write_shard
from data_prep.workers.worker_pool import in_order
from samples.image_roots import ImageRoots, NotRead, RootError

MAY_TURN_UP = ("missing_file", "unreadable_file", "outside_images")
"""Reasons that a later start may no longer find, once somebody has copied the missing images."""
Encode = Callable[[bytes, ImageSettings], EncodedImage]


class RowImages(Protocol):
    """Where images come from that need no download; it is sent to the workers."""

    def results(self, index: int, rows: dict[int, ListedImage]) -> Iterator[FetchResult]:
        """Bytes or failure of every row of shard `index`."""


@dataclass(frozen=True)
class LocalRows:
    """Images in folders and zips: a row's `url` is a path there."""

    local: ImageRoots
    max_image_bytes: int

    def results(self, index: int, rows: dict[int, ListedImage]) -> Iterator[FetchResult]:
        """A file that is missing or cannot be read is a failure of its row.

        Raises: InputError when a zip was replaced since the start, or a root is gone.
        """
        for row, image in rows.items():
            if image.rejected is not None:
                yield FetchResult(row, None, image.rejected)
                continue
            try:
                yield FetchResult(row, self._read(image.url), None)
            except NotRead as error:
                yield FetchResult(row, None, str(error))
        try:
            self.local.check_unchanged()
        except RootError as error:
            raise _changed(error) from error

    def has_found_more(self, folder: Folder, record: ShardRecord) -> bool:
        """Whether an image that a finished shard lacks can be read now: it was copied, or --images has more roots."""
        if not any(record.failed.get(reason) for reason in MAY_TURN_UP):
            return False
        failures = folder.failures / f"{record.name}.jsonl"
        if not failures.exists():
            return False
        with failures.open("rb") as lines:
            missing = (row for row in map(json.loads, lines) if row["reason"] in MAY_TURN_UP)
            return any(self._can_be_read(row["url"]) for row in missing)

    def _can_be_read(self, name: str) -> bool:
        try:
            self._read(name)
        except NotRead:
            return False
        return True

    def _read(self, name: str) -> bytes:
        try:
            return self.local.read(name, self.max_image_bytes)
        except RootError as error:
            raise _changed(error) from error


def _changed(error: RootError) -> InputError:
    return InputError(str(error), "run the same command again when nothing writes to it: finished shards stay")


@dataclass(frozen=True)
class _Packing:
    folder: Folder
    job: Job
    index: int
    images: RowImages
    arguments: dict[str, Any]
    encode: Encode


def pack_shards(
    folder: Folder,
    job: Job,
    done: dict[int, ShardRecord],
    images: RowImages,
    arguments: dict[str, Any],
    pool: ProcessPoolExecutor,
    processes: int,
    reporter: PartProgress,
    encode: Encode = encode_image,
) -> None:
    """Read, encode and publish every shard that is not `done` yet."""
    rows_done = sum(record.listed for record in done.values())
    kept = sum(record.kept for record in done.values())
    progress = Progress("rows", job.num_rows, done_before=rows_done)
    reporter.begin(shards=job.num_shards, rows=job.num_rows, rows_before=rows_done)
    reporter.update(shards_finished=len(done), rows_finished=rows_done, rows_answered=rows_done, kept=kept)
    missing = (index for index in range(job.num_shards) if index not in done)
    tasks = (_Packing(folder, job, index, images, arguments, encode) for index in missing)
    for finished, record in enumerate(in_order(pool, pack_shard, tasks, ahead=2 * processes), start=len(done) + 1):
        rows_done += record.listed
        kept += record.kept
        reporter.update(shards_finished=finished, rows_finished=rows_done, rows_answered=rows_done, kept=kept)
        progress.update(rows_done, f"{kept} kept")
    progress.finish(rows_done, f"{kept} kept")


def pack_shard(task: _Packing) -> ShardRecord:
    """Build one shard from images on this machine."""
    rows = read_shard_rows(task.folder.rows, task.index)
    results = task.images.results(task.index, rows)
    return write_shard(task.folder, task.job, task.index, rows, results, task.arguments, task.encode)


def pack_arguments(job: Job, list_names: list[str]) -> dict[str, Any]:
    """What the manifest records about how a shard was made."""
    return {
        "command": job.kind,
        "list": list_names,
        "shard_size": job.shard_size,
        "inputs_sha256": job.inputs_sha256,
        **asdict(job.images),
    }
