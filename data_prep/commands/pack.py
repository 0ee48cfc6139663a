"""`data_prep pack`: put local images with annotation lists into shards."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from data_prep.annotations import read_annotations
from data_prep.commands.job_flags import (
    add_out,
    add_processes,
    add_shard_flags,
    num_processes,
    output_folder,
    wanted_job,
)
from data_prep.commands.making import make
from data_prep.errors import InputError
from data_prep.job import Folder, Job
from data_prep.list_file import is_list, read_list
from data_prep.local_images import LocalImages, open_local_images, refuse_when_none_exists, without_prefix
from data_prep.merge_captions import merge_captions
from data_prep.pack import LocalRows, pack_arguments, pack_shards
from data_prep.part_progress import PartProgress
from data_prep.row_list import ListedImage


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "--annotations",
        required=True,
        nargs="+",
        metavar="FILE",
        help="JSON lists of {image, caption}, or lists that `data_prep list` wrote",
    )
    parser.add_argument(
        "--images",
        required=True,
        nargs="+",
        metavar="ROOT",
        help="folders, or zips as they are, that the images' paths begin in",
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
    add_processes(parser)


def run(flags: argparse.Namespace) -> int:
    """Exit code: 0 all is whole, 1 a shard is wrong."""
    annotations = [Path(name) for name in flags.annotations]
    local = open_local_images(flags.images)
    for path in annotations:
        if not path.is_file():
            raise InputError(f"annotations not found: {path}", "give existing files with --annotations")
    folder = output_folder(flags)
    images = _images(annotations, flags.strip_prefix, local, folder)
    wanted = wanted_job("pack", flags, annotations, {"strip_prefix": flags.strip_prefix, "merged": True})
    processes = num_processes(flags)

    def make_shards(job: Job, pool: ProcessPoolExecutor, told: PartProgress) -> None:
        arguments = pack_arguments(job, [path.name for path in annotations])
        pack_shards(folder, job, LocalRows(local, flags.max_image_bytes), arguments, pool, processes, told)

    return make(folder, wanted, images, processes, make_shards)


def _images(
    annotations: Sequence[Path], prefixes: Sequence[str], local: LocalImages, folder: Folder
) -> Iterator[ListedImage]:
    entries = (
        without_prefix(image, prefixes)
        for path in annotations
        for image in (read_list(path, "path") if is_list(path) else read_annotations(path))
    )
    return refuse_when_none_exists(merge_captions(entries, folder.work), local)
