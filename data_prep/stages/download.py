"""`data_prep download`: a list of URLs -> shards with a manifest, by way of img2dataset."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from base.progress import Progress
from data_prep.errors import UnfinishedError
from data_prep.fetch.retrying_opener import FetchLimits
from data_prep.fetch.supervisor import FetchSettings, Img2DatasetProcess, RawShard, launch_folders, reusable_shards
from data_prep.lists.exclusion import excluded_hash, read_hashes
from data_prep.lists.row_list import read_shard_rows
from data_prep.output.job import Folder, ImageSettings, Job
from data_prep.output.part_progress import PartProgress
from data_prep.shards.image_encoding import EncodedImage, encode_image
from data_prep.shards.writer import FetchResult, ShardRecord, write_shard
from data_prep.stages.retry import later_retries, superseded_rows
from samples.image import ImageRefused

POLL_S = 0.2
START_UP_S = 120.0  # importing img2dataset takes 3 s on a free core, and much longer where many start at once
MIN_ROWS_FOR_YIELD = 100
LOG_LINES = 5


@dataclass(frozen=True)
class Conversion:
    """A fetched shard, and all that a worker needs to convert it into a shard of the corpus."""

    folder: Folder
    job: Job
    raw: RawShard
    min_yield: float
    excluded_hashes: Path | None
    later_retries: tuple[Path, ...]
    """Lists of rows that later rounds retry: `retry.later_retries`."""
    arguments: dict[str, Any]


def convert(task: Conversion) -> ShardRecord:
    """Encode the images of a fetched shard and publish the result. Runs in a worker process.

    Raises: UnfinishedError when fewer than `min_yield` of its images came back: the network is at fault, not the list.
        The shard is then not published, so that the same command fetches it again.
    """
    rows = read_shard_rows(task.folder.rows, task.raw.index)
    asked = sum(image.rejected is None for image in rows.values())
    if asked >= MIN_ROWS_FOR_YIELD:
        good = sum(result.data is not None for result in task.raw.results() if rows[result.row].rejected is None)
        if good < task.min_yield * asked:
            raise UnfinishedError(
                f"shard {task.job.shard_name(task.raw.index)}: only {good} of {asked} images could be downloaded, "
                f"less than --min-yield {task.min_yield:g}",
                "check the network, then run the same command again; or lower --min-yield",
            )
    excluded = read_hashes(task.excluded_hashes) if task.excluded_hashes else frozenset()

    def encode(data: bytes, images: ImageSettings) -> EncodedImage:
        if excluded and (found := excluded_hash(data, excluded)):
            raise ImageRefused("excluded_hash", found)
        return encode_image(data, images)

    elsewhere = superseded_rows(task.later_retries, rows)
    results = (
        FetchResult(result.row, None, elsewhere[result.row]) if result.row in elsewhere else result
        for result in task.raw.results()
    )
    return write_shard(task.folder, task.job, task.raw.index, rows, results, task.arguments, encode)


def download_shards(
    folder: Folder,
    job: Job,
    done: dict[int, ShardRecord],
    settings: FetchSettings,
    min_yield: float,
    arguments: dict[str, Any],
    pool: ProcessPoolExecutor,
    reporter: PartProgress,
) -> None:
    """Fetch and convert every shard of the folder's part that is not `done` yet; the two overlap in time.

    Raises: UnfinishedError when img2dataset finished no further shard in `attempts` starts.
    """
    _Download(folder, job, done, settings, min_yield, arguments, pool, reporter).run()
    for launch in launch_folders(folder):
        shutil.rmtree(launch)


class _Download:
    """State of one run: shards to fetch, shards being converted, and rows accounted for so far."""

    def __init__(
        self,
        folder: Folder,
        job: Job,
        done: dict[int, ShardRecord],
        settings: FetchSettings,
        min_yield: float,
        arguments: dict[str, Any],
        pool: ProcessPoolExecutor,
        reporter: PartProgress,
    ) -> None:
        self.folder = folder
        self.job = job
        self.settings = settings
        self.min_yield = min_yield
        self.arguments = arguments
        self.later_retries = later_retries(folder, job)
        self.pool = pool
        self.to_fetch = {index for index in folder.part.shards(job.num_shards) if index not in done}
        self.converting: dict[int, tuple[RawShard, Future[ShardRecord]]] = {}
        self.rows_done = sum(record.listed for record in done.values())
        self.kept = sum(record.kept for record in done.values())
        listed = sum(map(job.rows_in_shard, folder.part.shards(job.num_shards)))
        self.progress = Progress("rows", listed, done_before=self.rows_done)
        self.num_shards = len(folder.part.shards(job.num_shards))
        self.reporter = reporter
        reporter.begin(shards=self.num_shards, rows=listed, rows_before=self.rows_done)

    def run(self) -> None:
        for raw in reusable_shards(self.folder, self.job, set(self.to_fetch)).values():
            self._begin_conversion(raw)
        attempts = 0
        while self.to_fetch:
            left = len(self.to_fetch)
            stopped = self._fetch_once()
            attempts = 0 if len(self.to_fetch) < left else attempts + 1
            if self.to_fetch:
                self.progress.print_line(f"img2dataset {stopped}, {len(self.to_fetch)} shards left: starting it again")
                self.reporter.restarted()
            if attempts >= self.settings.attempts:
                raise UnfinishedError(
                    f"img2dataset {stopped} {attempts} times and finished no shard; its log ends: {self._last_log()}",
                    f"see {self.folder.log}; the same command resumes with the {len(self.to_fetch)} shards left",
                )
        while self.converting:
            self._collect_conversions()
            self._show(0)
            time.sleep(POLL_S)
        self._show(0)
        self.progress.finish(self.rows_done, f"{self.kept} kept")

    def _fetch_once(self) -> str:
        """Start img2dataset once on the shards that are left; returns how it ended."""
        process = Img2DatasetProcess(self.folder, self.job, sorted(self.to_fetch), self.settings)
        moved_at, seen, patience = time.monotonic(), 0, max(self.settings.stall_timeout_s, START_UP_S)
        try:
            while True:
                running = process.running()  # before `finished`, so as not to miss what it finishes last
                for raw in process.finished():
                    self._begin_conversion(raw)
                if not self.to_fetch:
                    return "has finished"
                if not running:
                    return "stopped early"
                self._collect_conversions()
                answered = process.rows_answered()
                self._show(answered)
                if answered != seen:
                    moved_at, seen, patience = time.monotonic(), answered, self.settings.stall_timeout_s
                elif self.converting:  # workers may be waiting for room for more originals
                    moved_at = time.monotonic()
                elif time.monotonic() - moved_at > patience:
                    return f"answered no row for {patience:g} s and was killed"
                time.sleep(POLL_S)
        finally:
            process.kill()

    def _begin_conversion(self, raw: RawShard) -> None:
        task = Conversion(
            folder=self.folder,
            job=self.job,
            raw=raw,
            min_yield=self.min_yield,
            excluded_hashes=self.settings.exclusions.hashes,
            later_retries=self.later_retries,
            arguments=self.arguments,
        )
        self.to_fetch.discard(raw.index)
        self.converting[raw.index] = (raw, self.pool.submit(convert, task))

    def _collect_conversions(self) -> None:
        for index, (raw, future) in list(self.converting.items()):
            if future.done():
                try:
                    record = future.result()
                except UnfinishedError:
                    raw.remove()  # otherwise the next run would find it whole and convert it again
                    raise
                del self.converting[index]
                raw.remove()
                self.rows_done += record.listed
                self.kept += record.kept

    def _show(self, answered: int) -> None:
        fetched = sum(self.job.rows_in_shard(index) for index in self.converting)
        self.progress.update(self.rows_done + fetched + answered, f"{self.kept} kept")
        self.reporter.update(
            shards_finished=self.num_shards - len(self.to_fetch) - len(self.converting),
            rows_finished=self.rows_done,
            rows_answered=self.rows_done + fetched + answered,
            kept=self.kept,
        )

    def _last_log(self) -> str:
        lines = (
            self.folder.log.read_text(encoding="utf-8", errors="replace").splitlines()
            if self.folder.log.exists()
            else []
        )
        return " | ".join(line.strip() for line in lines[-LOG_LINES:]) or "nothing"


def download_arguments(job: Job, limits: FetchLimits, list_name: str) -> dict[str, Any]:
    """What the manifest records about how a shard was made."""
    return {
        "command": "download",
        "list": list_name,
        "shard_size": job.shard_size,
        "inputs_sha256": job.inputs_sha256,
        **asdict(job.images),
        "limits": asdict(limits),
    }
