"""`data_prep download`: fetch a list of image URLs into shards (img2dataset)."""

from __future__ import annotations

import argparse
import dataclasses
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from data_prep.commands.flags.column_flags import add_column_flags, column_values, list_columns
from data_prep.commands.flags.fetch_flags import add_fetch_flags, check_resolver, fetch_settings
from data_prep.commands.flags.job_flags import add_out, add_processes, add_shard_flags, output_folder, wanted_job
from data_prep.commands.flags.yield_flag import add_min_yield
from data_prep.commands.run_job import run_job
from data_prep.lists.exclusion import Exclusions, without_excluded
from data_prep.lists.list_columns import ListColumns
from data_prep.lists.url_list import read_url_list
from data_prep.output.job import Job
from data_prep.output.part_progress import PartProgress
from data_prep.output.parts import parse_part
from data_prep.output.storage import is_remote
from data_prep.shards.writer import ShardRecord
from data_prep.sources.list_file import how_listed, is_list, read_list
from data_prep.stages.download import download_arguments, download_shards


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "--urls", required=True, metavar="FILE", help="list: .tsv, .csv, .jsonl, .json, .parquet, or .gz of one"
    )
    add_out(parser)
    add_column_flags(parser, "url")
    parser.add_argument("--exclude-domains", metavar="FILE", help="do not ask these domains or their subdomains")
    parser.add_argument("--exclude-hashes", metavar="FILE", help="leave out images with these SHA-256 or MD5 as served")
    add_shard_flags(parser)
    parser.add_argument(
        "--part",
        default="1/1",
        metavar="I/N",
        help="make every N-th shard only, starting with the I-th: for N machines that share --out; then `verify`",
    )
    add_processes(parser)
    add_fetch_flags(parser)
    add_min_yield(parser, 0.1, "the rows became samples; stop at a shard with a smaller share")


def run(flags: argparse.Namespace) -> int:
    """Exit code: 0 all is whole, 1 a shard is wrong. Raises: YieldError, exit code 1, below --min-yield."""
    urls = Path(flags.urls)
    columns = list_columns(flags, "url")
    settings = fetch_settings(flags)
    folder = output_folder(flags, parse_part(flags.part))
    listed = how_listed([urls])
    if is_list(urls) and columns == ListColumns():
        images, reading = read_list(urls, "url"), {"list": "url"}
    else:
        images, reading = read_url_list(urls, columns), dataclasses.asdict(columns)
    exclusions = Exclusions(*(Path(name) if name else None for name in (flags.exclude_domains, flags.exclude_hashes)))
    wanted = wanted_job("download", flags, [urls], {**reading, **exclusions.identity()}, column_values(flags, "url"))

    def build_shards(job: Job, done: dict[int, ShardRecord], pool: ProcessPoolExecutor, reporter: PartProgress) -> None:
        check_resolver(flags, folder, job, done)
        kept = exclusions.kept_in(folder.root)
        # Workers read the lists from a folder of this machine, where they do not change during the work.
        lists = exclusions.kept_in(folder.work) if is_remote(folder.root) else kept
        asking = dataclasses.replace(settings, exclusions=lists)
        arguments = {**download_arguments(job, settings.limits, urls.name), **exclusions.identity(), **listed}
        download_shards(folder, job, done, asking, flags.min_yield, arguments, pool, reporter)

    return run_job(
        folder, wanted, without_excluded(images, exclusions), settings.processes, build_shards, flags.min_yield
    )
