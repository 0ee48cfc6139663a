"""What each command does, from parsed flags to exit code."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from data_prep.accounting import Account, add_up, finished_shards, print_summary, write_report
from data_prep.annotations import read_annotations
from data_prep.download import default_source, download_arguments, download_shards
from data_prep.errors import InputError, UsageError
from data_prep.fetch import FetchSettings
from data_prep.image_encoding import ImageSettings
from data_prep.job import (
    Folder,
    Job,
    check_same_job,
    claimed_shards,
    exclusive,
    hash_inputs,
    read_job,
    write_job,
)
from data_prep.pack import pack_arguments, pack_shards
from data_prep.parts import parse_part
from data_prep.patient_opener import FetchLimits
from data_prep.progress import Progress
from data_prep.row_list import ListedImage, write_rows
from data_prep.url_list import ListColumns, read_url_list
from data_prep.verify import Verification, verify_folder
from data_prep.worker_pool import open_pool

MAX_PROBLEMS_SHOWN = 100


def download(flags: argparse.Namespace) -> int:
    urls = Path(flags.urls)
    columns = ListColumns(
        url=flags.url_col,
        captions=tuple(flags.caption_col or ["caption"]),
        names=None if flags.columns is None else tuple(flags.columns.split(",")),
    )
    limits = FetchLimits(
        timeout_s=flags.timeout,
        image_timeout_s=max(flags.image_timeout, flags.timeout),
        retries=flags.retries,
        pause_s=flags.retry_pause,
        max_image_bytes=flags.max_image_bytes,
    )
    settings = FetchSettings(
        processes=_processes(flags),
        threads=flags.threads,
        limits=limits,
        user_agent_token=flags.user_agent_token,
        stall_timeout_s=_stall_timeout_s(flags.stall_timeout, limits),
        attempts=flags.attempts,
    )
    folder = Folder(Path(flags.out), parse_part(flags.part))
    images = read_url_list(urls, columns)
    wanted = _wanted_job("download", flags, [urls], dataclasses.asdict(columns))

    def make(job: Job, pool: ProcessPoolExecutor) -> None:
        download_shards(folder, job, settings, flags.min_yield, download_arguments(job, limits, urls.name), pool)

    return _make(folder, wanted, images, settings.processes, make)


def pack(flags: argparse.Namespace) -> int:
    annotations = [Path(name) for name in flags.annotations]
    root = Path(flags.images)
    if not root.is_dir():
        raise InputError(f"folder of images not found: {root}", "give an existing folder with --images")
    for path in annotations:
        if not path.is_file():
            raise InputError(f"annotations not found: {path}", "give existing files with --annotations")
    folder = Folder(Path(flags.out))
    images = (image for path in annotations for image in read_annotations(path))
    wanted = _wanted_job("pack", flags, annotations, {})
    processes = _processes(flags)

    def make(job: Job, pool: ProcessPoolExecutor) -> None:
        arguments = pack_arguments(job, [path.name for path in annotations])
        pack_shards(folder, job, root, flags.max_image_bytes, arguments, pool, processes)

    return _make(folder, wanted, images, processes, make)


def verify(flags: argparse.Namespace) -> int:
    processes = _processes(flags)
    with open_pool(processes) as pool:
        result = _verify(Path(flags.folder), pool, processes, flags.sample, flags.seed, flags.keep_going)
    _report_again(Folder(Path(flags.folder)))
    if flags.sample < 1:
        print(f"decoded {result.num_decoded} of {result.num_samples} images (seed {flags.seed})")
    return _tell(result)


def status(flags: argparse.Namespace) -> int:
    folder = Folder(Path(flags.folder))
    job = read_job(folder)
    if job is None:
        raise InputError(f"{folder.root} is not the folder of a download or pack", "give its --out folder")
    print(f"{job.kind} of {job.source} in {folder.root}")
    print_summary(_account(folder, job), sys.stdout)
    return 0


def _make(
    folder: Folder,
    wanted: Job,
    images: Iterable[ListedImage],
    processes: int,
    make_shards: Callable[[Job, ProcessPoolExecutor], None],
) -> int:
    """The course of `download` and `pack`: list, shards, manifest, report. A part ends with its shards."""
    started = time.monotonic()
    check_same_job(folder, wanted)  # before anything is created or locked
    result = None
    with exclusive(folder):
        job = _begin(folder, wanted, images)
        with claimed_shards(folder, job), open_pool(processes) as pool:
            _remove_leftovers(folder, job)
            before = _account(folder, job)
            try:
                make_shards(job, pool)
            finally:
                after = _account(folder, job)
                if folder.part.is_whole:
                    _report(folder, job, before, after, time.monotonic() - started)
            if folder.part.is_whole:
                result = _verify(folder.root, pool, processes, fraction=0.0, seed=0, keep_going=False)
    print_summary(after, sys.stdout)
    rows, seconds = after.accounted - before.accounted, time.monotonic() - started
    print(f"{rows} rows in {seconds:.1f} s, {rows / seconds:.1f} rows/s")
    if result is not None:
        return _tell(result)
    print(f"part {folder.part} is done; once all are: python -m data_prep verify {folder.root}")
    return 0


def _account(folder: Folder, job: Job) -> Account:
    return add_up(job, finished_shards(folder, job).values(), folder.part)


def _remove_leftovers(folder: Folder, job: Job) -> None:
    """What a killed writer of these shards left; the temporary files of other parts are being written right now."""
    mine = {job.shard_name(index) for index in folder.part.shards(job.num_shards)}
    for leftover in (*folder.shards.glob(".*.tmp"), *folder.failures.glob(".*.tmp")):
        if folder.part.is_whole or leftover.name.removeprefix(".").partition(".")[0] in mine:
            leftover.unlink()
    if folder.part.is_whole:
        for leftover in folder.root.glob(".*.tmp"):
            leftover.unlink()


def _begin(folder: Folder, wanted: Job, images: Iterable[ListedImage]) -> Job:
    """The job with its number of rows; the list is read once and then kept."""
    begun = check_same_job(folder, wanted)
    if begun is not None and folder.rows.exists():
        return begun
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


def _report(folder: Folder, job: Job, before: Account, after: Account, seconds: float) -> None:
    rows = after.accounted - before.accounted
    write_report(
        folder, job, after, {"rows": rows, "seconds": round(seconds, 1), "rows_per_s": round(rows / seconds, 1)}
    )


def _report_again(folder: Folder) -> None:
    """`report.json` of what is there now: the parts of a job have left none, and a shard may be gone since."""
    job = read_job(folder)
    if job is not None:
        try:
            last_run = json.loads(folder.report.read_bytes())["last_run"]
        except (OSError, ValueError, KeyError, TypeError):
            last_run = None
        write_report(folder, job, _account(folder, job), last_run)


def _verify(
    root: Path, pool: ProcessPoolExecutor, processes: int, fraction: float, seed: int, keep_going: bool
) -> Verification:
    progress: list[Progress] = []

    def on_shard(done: int, total: int) -> None:
        if not progress:
            progress.append(Progress("verified shards", total))
        (progress[0].finish if done == total else progress[0].update)(done)

    return verify_folder(root, pool, processes, fraction=fraction, seed=seed, keep_going=keep_going, on_shard=on_shard)


def _tell(result: Verification) -> int:
    for problem in result.problems[:MAX_PROBLEMS_SHOWN]:
        print(f"wrong: {problem}")
    if len(result.problems) > MAX_PROBLEMS_SHOWN:
        print(f"wrong: and {len(result.problems) - MAX_PROBLEMS_SHOWN} more")
    if result.withdrawn:
        print(f"the earlier manifest is no longer true: moved to {result.withdrawn}")
    written = f"wrote {result.manifest}" if result.manifest else "no manifest was written"
    print(f"{result.num_shards} shards, {result.num_samples} samples, {len(result.problems)} problems; {written}")
    return 1 if result.problems else 0


def _wanted_job(kind: str, flags: argparse.Namespace, inputs: Sequence[Path], reading: dict[str, Any]) -> Job:
    source = default_source(inputs[0]) if flags.source is None else flags.source
    if default_source(Path(source)) != source:
        raise UsageError(f"--source {source!r} is not a name", "use lower-case letters, digits and underscores")
    return Job(
        kind=kind,
        source=source,
        inputs_sha256=hash_inputs(inputs, reading),
        shard_size=flags.shard_size,
        images=ImageSettings(image_size=flags.image_size, jpeg_quality=flags.jpeg_quality, max_pixels=flags.max_pixels),
    )


def _processes(flags: argparse.Namespace) -> int:
    return int(flags.processes or len(os.sched_getaffinity(0)))


def _stall_timeout_s(given: float | None, limits: FetchLimits) -> float:
    """Never shorter than one row can honestly take, or the watchdog would kill healthy work."""
    if given is None:
        return max(300.0, limits.worst_case_s)
    if given < limits.worst_case_s:
        raise UsageError(
            f"--stall-timeout {given:g} is shorter than one image may take ({limits.worst_case_s:g} s)",
            "raise it, or lower --image-timeout, --retries or --retry-pause",
        )
    return given
