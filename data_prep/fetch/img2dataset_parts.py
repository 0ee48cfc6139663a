"""img2dataset, put together from its own parts for one purpose: fetch the bytes of listed rows, shard by shard.

Its Downloader (threads, opt-out headers, statistics), parquet writer and multiprocessing distributor do the work. Its
`download()` would add its own logger process, read the whole list into memory, and treat any shard with a
statistics file as done; `data_prep.fetch.supervisor` decides by counting rows which shards are left.
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

from data_prep.fetch.host_limits import HostLimiter, spread_hosts
from data_prep.fetch.lean_worker import rebuilt
from data_prep.fetch.retrying_opener import FetchLimits, RetryingOpener
from data_prep.fetch.spark import spark_session
from data_prep.lists.exclusion import read_domains
from data_prep.lists.row_list import read_shard_table
from data_prep.lists.web_url import with_login

COLUMNS = ["row", "url"]
OPT_OUT = ["noai", "noimageai", "noindex", "noimageindex"]
SHARD_DIGITS = 5


@dataclass(frozen=True, kw_only=True)
class FetchRequest:
    """What one start of img2dataset fetches, and how; `supervisor` writes it to the launch's folder."""

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
    """Workers pause while this many fetched shards wait for conversion: originals are large."""
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
    def from_json(fields: dict[str, Any]) -> FetchRequest:
        return FetchRequest(**{**fields, "limits": FetchLimits(**fields["limits"])})


def run(request: FetchRequest) -> None:
    """Fetch the shards. However this ends, the caller counts rows to find out which shards are whole."""
    downloader, tasks = make_downloader(request), list(_tasks(request))
    if request.distributor == "pyspark":
        with spark_session(request.processes, request.spark_master, Path(request.out)):
            pyspark_distributor(request.processes, downloader, tasks, len(tasks), max_shard_retry=0)
    else:
        multiprocessing_distributor(request.processes, downloader, tasks, None, max_shard_retry=0)


def make_downloader(request: FetchRequest) -> ListDownloader:
    """img2dataset's downloader, set up for one launch."""
    return ListDownloader(
        request=request,
        sample_writer_class=CountingWriter,
        # Bytes are stored as they came: data_prep.shards.image_encoding decodes them.
        resizer=Resizer(image_size=0, resize_mode="no", resize_only_if_bigger=True, disable_all_reencoding=True),
        thread_count=request.threads,
        save_caption=False,
        extract_exif=False,
        output_folder=request.out,
        column_list=COLUMNS,
        timeout=request.limits.timeout_s,
        number_sample_per_shard=max(2, request.shard_size),
        oom_shard_count=SHARD_DIGITS,
        compute_hash=None,
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,  # RetryingOpener retries: img2dataset would repeat at once, a 404 too
        user_agent_token=request.user_agent_token,
        disallowed_header_directives=OPT_OUT,
    )


def downloader_of(request: dict[str, Any]) -> ListDownloader:
    """The downloader for a request, as a worker unpickles it."""
    return make_downloader(FetchRequest.from_json(request))


def _tasks(request: FetchRequest) -> Iterator[tuple[int, str]]:
    for shard in request.shards:
        yield shard, os.path.join(request.out, f"{shard:0{SHARD_DIGITS}d}.feather")


def _to_ask(table: Any) -> Any:
    """Rows and URLs, hosts spread out. A row that was rejected when the list was read gets no URL."""
    urls = pc.if_else(pc.is_valid(table["rejected"]), "", table["url"])
    order = spread_hosts([url.partition("://")[2].partition("/")[0] for url in urls.to_pylist()])
    asked = [with_login(url, login) for url, login in zip(urls.to_pylist(), table["login"].to_pylist(), strict=True)]
    return pa.table({"row": table["row"], "url": asked}).take(order)


@functools.cache
def _opener(limits: FetchLimits, per_host: int, excluded_domains: str | None) -> RetryingOpener:
    """One opener for each worker, so that a host's back-off lasts into the worker's next shard."""
    domains = frozenset() if excluded_domains is None else read_domains(Path(excluded_domains))
    return RetryingOpener(limits, HostLimiter(per_host), domains)


class ListDownloader(Downloader):
    """Takes its rows from the normalised list, one shard at a time, and asks servers through `RetryingOpener`."""

    def __init__(self, *, request: FetchRequest, **settings: Any) -> None:
        super().__init__(**settings)
        self.request = request

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuilt where it arrives: a Spark worker must be lean before it imports this module."""
        return rebuilt, (__name__, "downloader_of", asdict(self.request))

    def download_shard(self, row: tuple[int, str]) -> None:
        request = self.request
        urllib.request.install_opener(_opener(request.limits, request.per_host, request.excluded_domains))
        while len(list(Path(self.request.out).glob("*_stats.json"))) >= self.request.max_waiting:
            time.sleep(0.2)
        shard, feather = row
        table = _to_ask(read_shard_table(Path(self.request.rows), shard))
        with pa.OSFile(feather, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        super().download_shard(row)


class PlainParquet(BufferedParquetWriter):
    """Writes images as they are: they do not compress, and no two are equal, so trying either only costs time.

    For originals of 250 KiB this saves 2.3 ms of processor time an image, of some 30 (benchmarks.download).
    """

    def __init__(self, output_file: str, schema: pa.Schema) -> None:
        super().__init__(output_file, schema)
        self.close()
        self.output_fd = pa.OSFile(output_file, "wb")
        self.parquet_writer = pq.ParquetWriter(self.output_fd, schema, compression="none", use_dictionary=False)


class CountingWriter(ParquetSampleWriter):
    """Adds one byte to NNNNN.rows for each answered row; the progress bar and the watchdog read its size."""

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
