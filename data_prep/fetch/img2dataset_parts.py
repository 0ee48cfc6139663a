"""img2dataset, put together from its own parts for one purpose: fetch the bytes of listed rows, shard by shard.

Its Downloader (threads, opt-out headers, statistics), parquet writer and multiprocessing distributor do the work. Its
`download()` would add a logger process of its own, read the whole list into memory, and take any shard with a
statistics file for done; which shards are left is decided in `data_prep.fetch.supervisor`, by counting rows.
Only img2dataset processes import this module (see `img2dataset_run`).
"""

from __future__ import annotations

import functools
import os
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from img2dataset.distributor import multiprocessing_distributor, pyspark_distributor
from img2dataset.downloader import Downloader
from img2dataset.resizer import Resizer
from img2dataset.writer import BufferedParquetWriter, ParquetSampleWriter

from data_prep.fetch.host_limits import HostTurns, spread_hosts
from data_prep.fetch.lean_worker import rebuilt
from data_prep.fetch.retrying_opener import FetchLimits, PatientOpener
from data_prep.fetch.spark import spark_session
from data_prep.lists.exclusion import read_domains
from data_prep.lists.row_list import read_shard_table
from data_prep.lists.web_url import with_login

COLUMNS = ["row", "url"]
OPT_OUT = ["noai", "noimageai", "noindex", "noimageindex"]
SHARD_DIGITS = 5


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One start of img2dataset."""

    rows: str
    """The normalised list."""
    out: str
    """Folder of this launch, for nothing else."""
    shards: list[int]
    """Shards to fetch."""
    shard_size: int
    processes: int
    threads: int
    max_waiting: int
    """Workers rest while so many fetched shards wait for conversion: originals are large."""
    per_host: int
    """Requests at a time to one host, in each worker."""
    distributor: str
    """multiprocessing or pyspark."""
    spark_master: str | None
    excluded_domains: str | None
    """List of domains that a redirect must not lead to; listed rows of theirs are rejected already."""
    user_agent_token: str | None
    limits: FetchLimits

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Launch:
        return Launch(**{**fields, "limits": FetchLimits(**fields["limits"])})


def run(launch: Launch) -> None:
    """Fetch the shards; which of them are whole is for the caller to count, whatever this returns or raises."""
    downloader, tasks = make_downloader(launch), list(_tasks(launch))
    if launch.distributor == "pyspark":
        with spark_session(launch.processes, launch.spark_master, Path(launch.out)):
            pyspark_distributor(launch.processes, downloader, tasks, len(tasks), max_shard_retry=0)
    else:
        multiprocessing_distributor(launch.processes, downloader, tasks, None, max_shard_retry=0)


def make_downloader(launch: Launch) -> ListDownloader:
    """img2dataset's downloader, set up for one launch."""
    return ListDownloader(
        launch=launch,
        sample_writer_class=CountingWriter,
        # Bytes are stored as they came: decoding is data_prep.shards.image_encoding's.
        resizer=Resizer(image_size=0, resize_mode="no", resize_only_if_bigger=True, disable_all_reencoding=True),
        thread_count=launch.threads,
        save_caption=False,
        extract_exif=False,
        output_folder=launch.out,
        column_list=COLUMNS,
        timeout=launch.limits.timeout_s,
        number_sample_per_shard=max(2, launch.shard_size),
        oom_shard_count=SHARD_DIGITS,
        compute_hash=None,
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,  # PatientOpener's: img2dataset would repeat at once, a 404 too
        user_agent_token=launch.user_agent_token,
        disallowed_header_directives=OPT_OUT,
    )


def downloader_of(launch: dict[str, Any]) -> ListDownloader:
    """The downloader of a launch, as a worker takes it out of a message."""
    return make_downloader(Launch.from_json(launch))


def _tasks(launch: Launch) -> Iterator[tuple[int, str]]:
    for shard in launch.shards:
        yield shard, os.path.join(launch.out, f"{shard:0{SHARD_DIGITS}d}.feather")


def _to_ask(table: Any) -> Any:
    """Rows and addresses, hosts spread out. A row that was rejected on reading the list is asked for nowhere."""
    urls = pc.if_else(pc.is_valid(table["rejected"]), "", table["url"])
    order = spread_hosts([url.partition("://")[2].partition("/")[0] for url in urls.to_pylist()])
    asked = [with_login(url, login) for url, login in zip(urls.to_pylist(), table["login"].to_pylist(), strict=True)]
    return pa.table({"row": table["row"], "url": asked}).take(order)


@functools.cache
def _opener(limits: FetchLimits, per_host: int, excluded_domains: str | None) -> PatientOpener:
    """One a worker, so that what a host said while one shard was fetched holds for the next."""
    domains = frozenset() if excluded_domains is None else read_domains(Path(excluded_domains))
    return PatientOpener(limits, HostTurns(per_host), domains)


class ListDownloader(Downloader):
    """Takes its rows from the normalised list, one shard at a time, and asks servers patiently."""

    def __init__(self, *, launch: Launch, **settings: Any) -> None:
        super().__init__(**settings)
        self.launch = launch

    def __reduce__(self) -> tuple[Any, ...]:
        """Made again where it arrives: a Spark worker must be lean before it imports this module."""
        return rebuilt, (__name__, "downloader_of", asdict(self.launch))

    def download_shard(self, row: tuple[int, str]) -> None:
        launch = self.launch
        urllib.request.install_opener(_opener(launch.limits, launch.per_host, launch.excluded_domains))
        while len(list(Path(self.launch.out).glob("*_stats.json"))) >= self.launch.max_waiting:
            time.sleep(0.2)
        shard, feather = row
        table = _to_ask(read_shard_table(Path(self.launch.rows), shard))
        with pa.OSFile(feather, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        super().download_shard(row)


class PlainParquet(BufferedParquetWriter):
    """Writes images as they are: they do not compress, and no two are equal, so looking for either is lost time.

    For originals of 250 KiB that is 2.3 ms of processor time an image, of some 30 (benchmarks.download).
    """

    def __init__(self, output_file: str, schema: pa.Schema) -> None:
        super().__init__(output_file, schema)
        self.close()
        self.output_fd = pa.OSFile(output_file, "wb")
        self.parquet_writer = pq.ParquetWriter(self.output_fd, schema, compression="none", use_dictionary=False)


class CountingWriter(ParquetSampleWriter):
    """Leaves one byte in NNNNN.rows for each answered row: what the progress bar and the watchdog look at."""

    buffered_parquet_writer: BufferedParquetWriter

    def __init__(self, shard_id: int, output_folder: str, *settings: Any) -> None:
        super().__init__(shard_id, output_folder, *settings)
        schema = self.buffered_parquet_writer.schema
        self.buffered_parquet_writer.close()
        name = os.path.join(output_folder, f"{shard_id:0{SHARD_DIGITS}d}.parquet")
        self.buffered_parquet_writer = PlainParquet(name, schema)
        answered = os.path.join(output_folder, f"{shard_id:0{SHARD_DIGITS}d}.rows")
        self._answered = os.open(answered, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)

    def write(self, img_str: bytes | None, key: str, caption: str | None, meta: dict[str, Any]) -> None:
        super().write(img_str, key, caption, meta)
        os.write(self._answered, b".")

    def close(self) -> None:
        super().close()
        os.close(self._answered)
