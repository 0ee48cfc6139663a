"""What `download`, `pack`, `import` and `retry` share: list, shards, manifest, report."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from data_prep.accounts.accounting import Account, account_of, finished_shards, print_summary, write_report
from data_prep.accounts.min_yield import check_job_yield
from data_prep.commands import verify
from data_prep.errors import InputError
from data_prep.lists.row_list import ListedImage, write_rows
from data_prep.output.job import OUTPUTS, Folder, Job, check_same_job, claimed_shards, exclusive, write_job
from data_prep.output.ownership import remove_leftovers
from data_prep.output.part_progress import PartProgress
from data_prep.output.storage import is_remote
from data_prep.shards.writer import ShardRecord
from data_prep.workers.worker_pool import open_pool

BuildShards = Callable[[Job, dict[int, ShardRecord], ProcessPoolExecutor, PartProgress], None]
"""Builds the shards of the job that are not among those finished before."""


def run_job(
    folder: Folder,
    wanted: Job,
    images: Iterable[ListedImage],
    processes: int,
    build_shards: BuildShards,
    min_yield: float,
    corpus: Path | None = None,
) -> int:
    """Read the list, build the shards, verify them, and write manifest and report. A part ends with its shards.

    Args:
        min_yield: the least share of all rows that must become samples. It is not checked for a part, which may have
            few rows.
        corpus: folder that gets the manifest, where it is not the job's own (for a retry).
    Returns: the exit code. Raises: YieldError when all shards are made, with too few samples.
    """
    started = time.monotonic()
    check_same_job(folder, wanted)  # before anything is created or locked
    result = None
    with exclusive(folder), PartProgress(folder) as reporter:
        job = _begin(folder, wanted, images)
        with claimed_shards(folder, job), open_pool(processes) as pool:
            _remove_leftovers(folder, job)
            done = finished_shards(folder, job)
            rows_before = sum(record.listed for record in done.values())
            try:
                build_shards(job, done, pool, reporter)
            finally:
                after = account_of(folder, job)
                if folder.part.is_whole:
                    _report(folder, job, after, after.accounted - rows_before, time.monotonic() - started)
            if folder.part.is_whole:
                reporter.verifying()
                result = verify.verify_with_progress(
                    corpus or folder.root, pool, processes, fraction=0.0, seed=0, keep_going=False
                )
    print_summary(after, sys.stdout)
    rows, seconds = after.accounted - rows_before, time.monotonic() - started
    print(f"{rows} rows in {seconds:.1f} s, {rows / max(seconds, 1e-9):.1f} rows/s")
    if result is not None:
        code = verify.print_result(result)
        check_job_yield(folder, job, after, min_yield)
        return code
    print(f"part {folder.part} is done; once all are: python -m data_prep verify {folder.root}")
    return 0


def _remove_leftovers(folder: Folder, job: Job) -> None:
    """Delete temporary files of these shards only: those of other parts are being written right now."""
    mine = {job.shard_name(index) for index in folder.part.shards(job.num_shards)}

    def is_of_a_shard(name: str) -> bool:
        stem, _, ending = name.rpartition(".")
        return stem in mine and ending in ("tar", "json", "jsonl")

    if is_remote(folder.root):  # a put is whole or nothing: only files that wait for one are here
        remove_leftovers(folder.work, is_of_a_shard)
        return
    remove_leftovers(folder.shards, is_of_a_shard)
    remove_leftovers(folder.failures, is_of_a_shard)
    if folder.part.is_whole:
        remove_leftovers(folder.root, {*OUTPUTS, "job.json"}.__contains__)


def _begin(folder: Folder, wanted: Job, images: Iterable[ListedImage]) -> Job:
    """The job with its number of rows; the list is read on the first start and then kept."""
    job = check_same_job(folder, wanted)
    if job is not None and folder.rows.exists():
        if job.flags != wanted.flags:
            job = dataclasses.replace(job, flags=wanted.flags)
            write_job(folder, job)
        return job
    num_rows = write_rows(folder.rows, _counted(images), wanted.shard_size, folder.part)
    job = dataclasses.replace(wanted, num_rows=num_rows)
    if job.num_rows == 0:
        raise InputError("the list has no rows", "give a list with at least one image")
    write_job(folder, job)
    return job


def _counted(images: Iterable[ListedImage]) -> Iterator[ListedImage]:
    started, count = time.monotonic(), 0
    for image in images:
        count += 1
        yield image
    print(f"read {count} rows of the list in {time.monotonic() - started:.1f} s", file=sys.stderr)


def _report(folder: Folder, job: Job, after: Account, rows: int, seconds: float) -> None:
    rate = round(rows / max(seconds, 1e-9), 1)
    write_report(folder, job, after, {"rows": rows, "seconds": round(seconds, 1), "rows_per_s": rate})
