"""`data_prep pack`: local images and the original's annotation lists -> the same shards as `download` makes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from data_prep.accounting import finished_shards
from data_prep.job import Folder, Job
from data_prep.local_images import LocalImages, NotRead
from data_prep.part_progress import PartProgress
from data_prep.progress import Progress
from data_prep.row_list import ListedImage, read_shard_rows
from data_prep.shard_writer import Answer, ShardRecord, write_shard
from data_prep.worker_pool import in_order


@dataclass(frozen=True)
class _Packing:
    folder: Folder
    job: Job
    index: int
    images: LocalImages
    max_image_bytes: int
    arguments: dict[str, Any]


def pack_shards(
    folder: Folder,
    job: Job,
    images: LocalImages,
    max_image_bytes: int,
    arguments: dict[str, Any],
    pool: ProcessPoolExecutor,
    processes: int,
    told: PartProgress,
) -> None:
    """Read, encode and publish every shard that is not finished yet."""
    done = finished_shards(folder, job)
    rows_done = sum(record.listed for record in done.values())
    kept = sum(record.kept for record in done.values())
    progress = Progress("rows", job.num_rows, done_before=rows_done)
    told.begin(shards=job.num_shards, rows=job.num_rows, rows_before=rows_done)
    told.update(shards_finished=len(done), rows_finished=rows_done, rows_answered=rows_done, kept=kept)
    missing = (index for index in range(job.num_shards) if index not in done)
    tasks = (_Packing(folder, job, index, images, max_image_bytes, arguments) for index in missing)
    for finished, record in enumerate(in_order(pool, pack_shard, tasks, ahead=2 * processes), start=len(done) + 1):
        rows_done += record.listed
        kept += record.kept
        told.update(shards_finished=finished, rows_finished=rows_done, rows_answered=rows_done, kept=kept)
        progress.update(rows_done, f"{kept} kept")
    progress.finish(rows_done, f"{kept} kept")


def pack_shard(task: _Packing) -> ShardRecord:
    """One shard from local files; a file that is missing or cannot be read is a failure of its row."""
    rows = read_shard_rows(task.folder.rows, task.index)
    return write_shard(task.folder, task.job, task.index, rows, _answers(rows, task), task.arguments)


def _answers(rows: dict[int, ListedImage], task: _Packing) -> Iterator[Answer]:
    for row, image in rows.items():
        if image.rejected is not None:
            yield Answer(row, None, image.rejected)
            continue
        try:
            yield Answer(row, task.images.read(image.url, task.max_image_bytes), None)
        except NotRead as error:
            yield Answer(row, None, str(error))


def pack_arguments(job: Job, list_names: list[str]) -> dict[str, Any]:
    """What the manifest keeps of how a shard was made."""
    return {
        "command": "pack",
        "list": list_names,
        "shard_size": job.shard_size,
        "inputs_sha256": job.inputs_sha256,
        **asdict(job.images),
    }
