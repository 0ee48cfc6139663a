"""`data_prep pack`: put local images with annotation lists into shards."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from data_prep.commands.flags.column_flags import add_column_flags, column_values, list_columns
from data_prep.commands.flags.job_flags import (
    add_out,
    add_processes,
    add_shard_flags,
    num_processes,
    output_folder,
    wanted_job,
)
from data_prep.commands.flags.yield_flag import add_min_yield
from data_prep.commands.run_job import run_job
from data_prep.lists.annotations import NO_FLAGS, merge_captions, read_annotations
from data_prep.lists.list_columns import ListColumns
from data_prep.lists.published_file import check_is_file
from data_prep.lists.row_list import ListedImage
from data_prep.lists.url_list import list_format, read_url_list
from data_prep.output.job import Folder, Job
from data_prep.output.part_progress import PartProgress
from data_prep.shards.writer import ShardRecord
from data_prep.sources.list_file import how_listed, is_list, read_list
from data_prep.stages.local_images import open_local_images, refuse_when_none_exists, without_prefix
from data_prep.stages.pack import LocalRows, pack_arguments, pack_shards
from samples.image_roots import ImageRoots


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "--annotations",
        required=True,
        nargs="+",
        metavar="FILE",
        help="JSON lists of {image, caption}; lists that `data_prep list` wrote; or .tsv, .csv, .jsonl, .parquet; "
        "also compressed, as in .tsv.gz",
    )
    add_column_flags(parser, "path")
    parser.add_argument(
        "--images",
        required=True,
        nargs="+",
        metavar="ROOT",
        help="folders, or zips as they are, to which the images' paths are relative",
    )
    parser.add_argument(
        "--strip-prefix",
        action="append",
        default=[],
        metavar="PREFIX",
        help="take this off the images' paths first; repeat it for several",
    )
    add_out(parser)
    add_shard_flags(parser)
    add_min_yield(parser, 0.5, "the rows became samples")
    add_processes(parser)


def run(flags: argparse.Namespace) -> int:
    """Exit code: 0 all is whole, 1 a shard is wrong. Raises: YieldError, exit code 1, below --min-yield."""
    annotations = [Path(name) for name in flags.annotations]
    local = open_local_images(flags.images)
    for path in annotations:
        check_is_file(path, "give existing files with --annotations")
    folder = output_folder(flags)
    columns = list_columns(flags, "path")
    images = _images(annotations, columns, flags.strip_prefix, local, folder)
    reading = {"strip_prefix": flags.strip_prefix, "merged": True, **dataclasses.asdict(columns)}
    named = {
        "--images": [os.path.abspath(root) for root in flags.images],
        "--strip-prefix": flags.strip_prefix,
        **column_values(flags, "path"),
    }
    wanted = wanted_job("pack", flags, annotations, reading, named)
    processes = num_processes(flags)

    def build_shards(job: Job, done: dict[int, ShardRecord], pool: ProcessPoolExecutor, reporter: PartProgress) -> None:
        arguments = {**pack_arguments(job, [path.name for path in annotations]), **how_listed(annotations)}
        images = LocalRows(local, flags.max_image_bytes)
        again = [index for index, record in done.items() if images.has_found_more(folder, record)]
        if again:
            print(f"making {len(again)} shards again: images that could not be read can be now", file=sys.stderr)
        left = {index: record for index, record in done.items() if index not in again}
        pack_shards(folder, job, left, images, arguments, pool, processes, reporter)

    return run_job(folder, wanted, images, processes, build_shards, flags.min_yield)


def _images(
    annotations: Sequence[Path], columns: ListColumns, prefixes: Sequence[str], local: ImageRoots, folder: Folder
) -> Iterator[ListedImage]:
    entries = (without_prefix(image, prefixes) for path in annotations for image in _entries(path, columns))
    return refuse_when_none_exists(merge_captions(entries, folder.work), local)


def _entries(path: Path, columns: ListColumns) -> Iterator[ListedImage]:
    if is_list(path) and columns == NO_FLAGS:
        return read_list(path, "path")
    return read_annotations(path, columns) if list_format(path) in ("json", None) else read_url_list(path, columns)
