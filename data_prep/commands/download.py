"""`data_prep download`: fetch a list of image addresses into shards (img2dataset)."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from data_prep import flag_types
from data_prep.accounting import finished_shards
from data_prep.commands.job_flags import add_processes, add_shard_flags, num_processes, wanted_job
from data_prep.commands.making import make
from data_prep.dns_check import check_dns, sample_hosts
from data_prep.download import download_arguments, download_shards
from data_prep.errors import UsageError
from data_prep.fetch import FetchSettings
from data_prep.job import Folder, Job
from data_prep.list_file import is_list, read_list
from data_prep.part_progress import PartProgress
from data_prep.parts import parse_part
from data_prep.patient_opener import FetchLimits
from data_prep.url_list import ListColumns, read_url_list


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    limits = FetchLimits()
    parser.add_argument("--urls", required=True, metavar="FILE", help="list: .tsv, .csv, .jsonl, .parquet")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for shards and manifest; the same to go on")
    parser.add_argument("--url-col", default="url", metavar="NAME", help="column of the address (default: url)")
    parser.add_argument(
        "--caption-col",
        action="append",
        metavar="NAME",
        help="column of the caption or list of captions; repeat it for several (default: caption)",
    )
    parser.add_argument("--id-col", metavar="NAME", help="column of the source's own name for an image")
    parser.add_argument("--licence-col", metavar="NAME", help="column of the image's licence")
    parser.add_argument("--columns", metavar="A,B", help="names of the columns of a TSV or CSV without a header")
    add_shard_flags(parser)
    parser.add_argument(
        "--part",
        default="1/1",
        metavar="I/N",
        help="make every N-th shard only, beginning with the I-th: for N machines that share --out; then `verify`",
    )
    add_processes(parser)
    parser.add_argument(
        "--threads", type=flag_types.positive, default=32, metavar="N", help="requests in flight a worker (32)"
    )
    parser.add_argument(
        "--per-host",
        type=flag_types.positive,
        default=FetchSettings(processes=1).per_host,
        metavar="N",
        help="requests at a time to one host, shared by the workers, at least one each (16)",
    )
    parser.add_argument(
        "--timeout", type=flag_types.seconds, default=limits.timeout_s, metavar="S", help="a server's silence (10)"
    )
    parser.add_argument(
        "--image-timeout",
        type=flag_types.seconds,
        default=limits.image_timeout_s,
        metavar="S",
        help="one image in all (60)",
    )
    parser.add_argument(
        "--retries", type=flag_types.count, default=limits.retries, metavar="N", help="further attempts (2)"
    )
    parser.add_argument(
        "--retry-pause",
        type=flag_types.seconds,
        default=limits.pause_s,
        metavar="S",
        help="before the first; doubles (1)",
    )
    parser.add_argument(
        "--max-pause",
        type=flag_types.seconds,
        default=limits.max_pause_s,
        metavar="S",
        help="longest, whatever a server's Retry-After asks for (30)",
    )
    parser.add_argument(
        "--no-dns-check", action="store_true", help="begin without looking up a sample of the list's hosts"
    )
    parser.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="also ask hosts on loopback, in private networks and the like (else refused)",
    )
    parser.add_argument("--user-agent-token", metavar="NAME", help="name to give to servers, and to heed opt-outs for")
    parser.add_argument(
        "--min-yield",
        type=flag_types.share,
        default=0.1,
        metavar="F",
        help="stop when a shard gets a smaller share (0.1)",
    )
    parser.add_argument(
        "--stall-timeout",
        type=flag_types.seconds,
        metavar="S",
        help="restart img2dataset after such a silence (300, or more)",
    )
    parser.add_argument(
        "--attempts", type=flag_types.positive, default=5, metavar="N", help="fruitless starts before giving up (5)"
    )


def run(flags: argparse.Namespace) -> int:
    """Exit code: 0 all is whole, 1 a shard is wrong."""
    urls = Path(flags.urls)
    columns = ListColumns(
        url=flags.url_col,
        captions=tuple(flags.caption_col or ["caption"]),
        names=None if flags.columns is None else tuple(flags.columns.split(",")),
        id=flags.id_col,
        licence=flags.licence_col,
    )
    limits = FetchLimits(
        timeout_s=flags.timeout,
        image_timeout_s=max(flags.image_timeout, flags.timeout),
        retries=flags.retries,
        pause_s=flags.retry_pause,
        max_pause_s=flags.max_pause,
        max_image_bytes=flags.max_image_bytes,
        allow_private_addresses=flags.allow_private_addresses,
    )
    settings = FetchSettings(
        processes=num_processes(flags),
        threads=flags.threads,
        per_host=flags.per_host,
        limits=limits,
        user_agent_token=flags.user_agent_token,
        stall_timeout_s=_stall_timeout_s(flags.stall_timeout, limits),
        attempts=flags.attempts,
    )
    folder = Folder(Path(flags.out), parse_part(flags.part))
    if is_list(urls) and columns == ListColumns():
        images, reading = read_list(urls, "url"), {"list": "url"}
    else:
        images, reading = read_url_list(urls, columns), dataclasses.asdict(columns)
    wanted = wanted_job("download", flags, [urls], reading)

    def make_shards(job: Job, pool: ProcessPoolExecutor, told: PartProgress) -> None:
        left = sorted(set(folder.part.shards(job.num_shards)) - finished_shards(folder, job).keys())
        if left and not flags.no_dns_check:
            print(check_dns(sample_hosts(folder.rows, left)), file=sys.stderr)
        download_shards(folder, job, settings, flags.min_yield, download_arguments(job, limits, urls.name), pool, told)

    return make(folder, wanted, images, settings.processes, make_shards)


def _stall_timeout_s(given: float | None, limits: FetchLimits) -> float:
    """Never shorter than one row can honestly take, or the watchdog would kill healthy work."""
    if given is None:
        return max(300.0, limits.worst_case_s)
    if given < limits.worst_case_s:
        raise UsageError(
            f"--stall-timeout {given:g} is shorter than one image may take ({limits.worst_case_s:g} s)",
            "raise it, or lower --image-timeout, --retries or --max-pause",
        )
    return given
