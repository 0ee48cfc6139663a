"""Flags of `download` and `retry`: how images are requested."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection

from base import flag_types
from base.errors import UsageError
from data_prep.commands.flags.job_flags import num_processes
from data_prep.fetch.dns_check import check_dns, sample_hosts
from data_prep.fetch.retrying_opener import FetchLimits
from data_prep.fetch.spark import DISTRIBUTORS, check_distributor
from data_prep.fetch.supervisor import FetchSettings
from data_prep.output.job import Folder, Job


def add_fetch_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags. Their values may change from one start to the next, since they do not shape images."""
    limits = FetchLimits()
    parser.add_argument(
        "--threads", type=flag_types.positive, default=32, metavar="N", help="requests in flight in each worker (32)"
    )
    parser.add_argument(
        "--per-host",
        type=flag_types.positive,
        default=FetchSettings(processes=1).per_host,
        metavar="N",
        help="requests at a time to one host, shared by the workers, at least one each (16)",
    )
    parser.add_argument(
        "--timeout",
        type=flag_types.seconds,
        default=limits.timeout_s,
        metavar="S",
        help="a server's silence, at most (10)",
    )
    parser.add_argument(
        "--image-timeout",
        type=flag_types.seconds,
        default=limits.image_timeout_s,
        metavar="S",
        help="longest time for one image in all (60)",
    )
    parser.add_argument(
        "--retries", type=flag_types.count, default=limits.retries, metavar="N", help="further attempts (2)"
    )
    parser.add_argument(
        "--retry-pause",
        type=flag_types.seconds,
        default=limits.pause_s,
        metavar="S",
        help="pause before the first further attempt; doubles (1)",
    )
    parser.add_argument(
        "--max-pause",
        type=flag_types.seconds,
        default=limits.max_pause_s,
        metavar="S",
        help="longest pause, even if a server's Retry-After asks for more (30)",
    )
    parser.add_argument(
        "--no-dns-check", action="store_true", help="start without looking up a sample of the list's hosts"
    )
    parser.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="also ask hosts on loopback, in private networks and the like (else refused)",
    )
    parser.add_argument("--user-agent-token", metavar="NAME", help="name to give to servers, and to heed opt-outs for")
    parser.add_argument(
        "--stall-timeout",
        type=flag_types.seconds,
        metavar="S",
        help="restart img2dataset when no row is answered for this long (300, or more)",
    )
    parser.add_argument(
        "--attempts",
        type=flag_types.positive,
        default=5,
        metavar="N",
        help="give up after this many fruitless starts (5)",
    )
    parser.add_argument(
        "--distributor",
        choices=DISTRIBUTORS,
        default=DISTRIBUTORS[0],
        help="what runs the workers: processes of this machine, or Spark (default: multiprocessing)",
    )
    parser.add_argument(
        "--spark-master", metavar="URL", help="the cluster for --distributor pyspark (default: Spark on this machine)"
    )


def fetch_settings(flags: argparse.Namespace) -> FetchSettings:
    """Raises: UsageError when the watchdog's timeout is shorter than one image may take, or Spark is missing."""
    check_distributor(flags.distributor)
    if flags.spark_master and flags.distributor != "pyspark":
        raise UsageError(
            f"--spark-master {flags.spark_master} is not used by {flags.distributor}", "add --distributor pyspark"
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
    return FetchSettings(
        processes=num_processes(flags),
        threads=flags.threads,
        per_host=flags.per_host,
        limits=limits,
        user_agent_token=flags.user_agent_token,
        stall_timeout_s=_stall_timeout_s(flags.stall_timeout, limits),
        attempts=flags.attempts,
        distributor=flags.distributor,
        spark_master=flags.spark_master,
    )


def check_resolver(flags: argparse.Namespace, folder: Folder, job: Job, done: Collection[int]) -> None:
    """Look up some hosts of the shards that are not `done`, and print the share that resolves.

    Does nothing with --no-dns-check. Raises: UnfinishedError when none resolves.
    """
    left = sorted(set(folder.part.shards(job.num_shards)) - set(done))
    if left and not flags.no_dns_check:
        print(check_dns(sample_hosts(folder.rows, left)), file=sys.stderr)


def _stall_timeout_s(given: float | None, limits: FetchLimits) -> float:
    """Never shorter than one row may take, or the watchdog would kill healthy work."""
    if given is None:
        return max(300.0, limits.worst_case_s)
    if given < limits.worst_case_s:
        raise UsageError(
            f"--stall-timeout {given:g} is shorter than one image may take ({limits.worst_case_s:g} s)",
            "raise it, or lower --image-timeout, --retries or --max-pause",
        )
    return given
