"""`data_prep import`: put ready-made WebDataset tars into shards."""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from data_prep.commands.flags.job_flags import (
    add_out,
    add_processes,
    add_shard_flags,
    job_of,
    num_processes,
    output_folder,
)
from data_prep.commands.flags.yield_flag import add_min_yield
from data_prep.commands.run_job import run_job
from data_prep.lists.published_file import check_is_file
from data_prep.output.job import Job
from data_prep.output.part_progress import PartProgress
from data_prep.shards.image_encoding import keep_or_encode
from data_prep.shards.writer import ShardRecord
from data_prep.stages.import_tars import TarRows, hash_tars, list_tars, tars_source
from data_prep.stages.pack import pack_arguments, pack_shards


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "tars", nargs="+", metavar="TAR", help="tars of KEY.jpg (png, webp, ...) with KEY.txt, KEY.json or both"
    )
    add_out(parser)
    parser.add_argument(
        "--keep-going", action="store_true", help="take the samples before a tar's damage; the damage counts as one row"
    )
    add_shard_flags(parser)
    add_min_yield(parser, 0.5, "the samples of the tars became samples")
    add_processes(parser)


def run(flags: argparse.Namespace) -> int:
    """Exit code: 0 all is whole, 1 a shard is wrong. Raises: YieldError, exit code 1, below --min-yield."""
    tars = [Path(name) for name in flags.tars]
    for path in tars:
        check_is_file(path)
    folder = output_folder(flags)
    members = folder.work / "members.parquet"
    reading = {"keep_going": flags.keep_going}
    wanted = job_of("import", flags, tars_source(tars[0]), hash_tars(tars, reading), {"--keep-going": flags.keep_going})
    processes = num_processes(flags)
    rows = list_tars(tars, members, flags.shard_size, processes=processes, keep_going=flags.keep_going)

    def build_shards(job: Job, done: dict[int, ShardRecord], pool: ProcessPoolExecutor, reporter: PartProgress) -> None:
        arguments = pack_arguments(job, [path.name for path in tars])
        images = TarRows(tuple(tars), members, flags.max_image_bytes)
        pack_shards(folder, job, done, images, arguments, pool, processes, reporter, keep_or_encode)

    return run_job(folder, wanted, rows, processes, build_shards, flags.min_yield)
