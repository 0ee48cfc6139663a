"""Starts img2dataset in its own process group, watches it, and finds out which shards it has really finished.

Its exit code means nothing: it is 0 on a full disk, after SIGINT and when samples were lost, and there is none at all
when a worker is killed, since the pool then waits for ever. So rows are counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import data_prep
from data_prep.fetch.failure import shown
from data_prep.fetch.retrying_opener import FetchLimits
from data_prep.lists.exclusion import Exclusions
from data_prep.output.job import Folder, Job, write_json
from data_prep.shards.writer import FetchResult

ANSWERS_AT_ONCE = 100
LAUNCH_NAME, LAUNCH_FILE = re.compile(r"[0-9a-f]+-[0-9]+"), "launch.txt"
OPTED_OUT = "Use of image disallowed by X-Robots-Tag directive"


@dataclass(frozen=True, kw_only=True)
class FetchSettings:
    processes: int
    """img2dataset workers, and as many processes that encode."""
    threads: int = 32
    """Requests in flight in each worker."""
    per_host: int = 16
    """Requests at a time to one host, of all workers together: each has an equal share, of at least one."""
    limits: FetchLimits = field(default_factory=FetchLimits)
    user_agent_token: str | None = None
    """Name to give to servers, and to look for in their opt-out headers."""
    stall_timeout_s: float = 300.0
    """When no row is answered for this long, img2dataset is killed and started again."""
    exclusions: Exclusions = field(default_factory=Exclusions)
    """Domains to which no redirect may lead, and images that are not stored."""
    distributor: str = "multiprocessing"
    """Of img2dataset: multiprocessing on this machine, or pyspark."""
    spark_master: str | None = None
    """URL of a Spark cluster that sees the folder under the same path; None for Spark on this machine."""
    attempts: int = 5
    """Give up after this many starts in a row that finished no further shard."""


@dataclass(frozen=True)
class RawShard:
    """A shard whose rows are all answered: NNNNN.parquet, whole, beside the NNNNN_stats.json that agrees with it."""

    index: int
    folder: Path

    @property
    def parquet(self) -> Path:
        return self.folder / f"{self.index:05d}.parquet"

    @property
    def stats(self) -> Path:
        return self.folder / f"{self.index:05d}_stats.json"

    def results(self) -> Iterator[FetchResult]:
        """Bytes or failure of every row, in the order in which servers answered. Memory: 100 originals."""
        with pq.ParquetFile(self.parquet) as file:
            for batch in file.iter_batches(ANSWERS_AT_ONCE, columns=["row", "jpg", "error_message"]):
                for answer in batch.to_pylist():
                    failure = answer["error_message"]
                    yield FetchResult(answer["row"], answer["jpg"], None if failure is None else _reason(failure))

    def remove(self) -> None:
        for path in (self.stats, self.parquet, self.parquet.with_suffix(".rows")):
            path.unlink(missing_ok=True)


def is_complete(shard: RawShard, num_rows: int) -> bool:
    """Whether every row is answered and stored: the statistics, the parquet's rows and the list agree on the counts."""
    try:
        stats = json.loads(shard.stats.read_bytes())
        answered = stats["successes"] + stats["failed_to_download"] + stats["failed_to_resize"]
        if not stats["count"] == answered == num_rows:
            return False
        with pq.ParquetFile(shard.parquet) as file:
            statuses = file.read(columns=["status"])["status"].to_pylist()
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return False
    return len(statuses) == num_rows and statuses.count("success") == stats["successes"]


def launch_folders(folder: Folder) -> list[Path]:
    """Folders that an `Img2DatasetProcess` made and wrote its request to, in order. Others in `raw` are not ours."""
    named = (path for path in folder.raw.iterdir() if LAUNCH_NAME.fullmatch(path.name))
    return sorted(path for path in named if (path / LAUNCH_FILE).is_file() and not path.is_symlink())


def reusable_shards(folder: Folder, job: Job, wanted: set[int]) -> dict[int, RawShard]:
    """Complete shards that an earlier run fetched and did not convert; everything else it left is deleted."""
    found: dict[int, RawShard] = {}
    launches = launch_folders(folder)
    for launch in launches:
        for stats in _statistics(launch):
            shard = RawShard(int(stats.name.split("_")[0]), launch)
            if (
                shard.index in wanted
                and shard.index not in found
                and is_complete(shard, job.rows_in_shard(shard.index))
            ):
                found[shard.index] = shard
    for launch in launches:
        kept = [shard for shard in found.values() if shard.folder == launch]
        if not kept:
            shutil.rmtree(launch, ignore_errors=True)
            continue
        keep = {path for shard in kept for path in (shard.parquet, shard.stats)} | {launch / LAUNCH_FILE}
        for path in launch.iterdir():
            if path not in keep and path.is_file():
                path.unlink()
    return found


class Img2DatasetProcess:
    """One start of img2dataset on the given shards."""

    def __init__(self, folder: Folder, job: Job, shards: list[int], settings: FetchSettings) -> None:
        self._job = job
        # Its own folder: a dying worker of an earlier launch cannot write into this one's files.
        self._out = folder.raw / f"{time.time_ns():x}-{os.getpid()}"
        self._out.mkdir(mode=0o700)  # the URLs in it hold passwords
        self._pending = set(shards)
        config = self._out / LAUNCH_FILE
        write_json(config, self._request(folder, shards, settings))
        with open(folder.log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "data_prep.fetch.img2dataset_run", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                start_new_session=True,
            )

    def _request(self, folder: Folder, shards: list[int], settings: FetchSettings) -> dict[str, object]:
        processes = min(settings.processes, len(shards))
        domains = settings.exclusions.domains
        return {
            "rows": str(folder.rows.absolute()),
            "out": str(self._out.absolute()),
            "shards": shards,
            "shard_size": self._job.shard_size,
            "processes": processes,
            "threads": settings.threads,
            "per_host": max(1, settings.per_host // processes),
            "max_waiting": 2 * settings.processes + 2,
            "distributor": settings.distributor,
            "spark_master": settings.spark_master,
            "excluded_domains": None if domains is None else str(domains.absolute()),
            "user_agent_token": settings.user_agent_token,
            "limits": asdict(settings.limits),
        }

    def running(self) -> bool:
        return self._process.poll() is None

    def rows_answered(self) -> int:
        """Of shards that `finished` has not returned yet."""
        return sum(_size(self._out / f"{index:05d}.rows") for index in self._pending)

    def finished(self) -> list[RawShard]:
        """Shards finished since the last call. A shard with statistics that do not add up stays pending."""
        done = []
        for stats in _statistics(self._out):
            shard = RawShard(int(stats.name.split("_")[0]), self._out)
            if shard.index in self._pending and is_complete(shard, self._job.rows_in_shard(shard.index)):
                self._pending.remove(shard.index)
                done.append(shard)
        return done

    def kill(self) -> None:
        """End the whole process group, workers included, and remove what it had not finished."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for index in self._pending:
            for path in self._out.glob(f"{index:05d}[._]*"):
                path.unlink()


def _statistics(launch: Path) -> list[Path]:
    """Of shards that have ended. img2dataset reads any .json in its folder as one, and crashes on a foreign name."""
    return sorted(path for path in launch.glob("*_stats.json") if path.name.removesuffix("_stats.json").isdigit())


def _environment() -> dict[str, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DATA_PREP_PARENT_PID": str(os.getpid())}
    root = Path(data_prep.__file__).absolute().parents[1]
    if root.name not in ("site-packages", "dist-packages"):  # a checkout: the child must find the package too
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return environment


def _reason(message: str) -> str:
    """img2dataset's error message as `reason: detail`; RetryingOpener's messages already are."""
    if message == OPTED_OUT:
        return f"opted_out: {message}"
    reason, colon, _ = message.partition(": ")
    if colon and reason.isascii() and reason.replace("_", "").isalnum() and reason.islower():
        return message
    return f"download_failed: {shown(message)}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
