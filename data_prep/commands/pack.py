"""`data_prep pack`: put local images with annotation lists into shards."""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from data_prep.annotations import read_annotations
from data_prep.commands.job_flags import add_processes, add_shard_flags, num_processes, wanted_job
from data_prep.commands.making import make
from data_prep.errors import InputError
from data_prep.job import Folder, Job
from data_prep.pack import pack_arguments, pack_shards
from data_prep.part_progress import PartProgress


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "--annotations", required=True, nargs="+", metavar="FILE", help="JSON lists of {image, caption}"
    )
    parser.add_argument("--images", required=True, metavar="ROOT", help="folder that the images' paths begin in")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for shards and manifest; the same to go on")
    add_shard_flags(parser)
    add_processes(parser)


def run(flags: argparse.Namespace) -> int:
    """Exit code: 0 all is whole, 1 a shard is wrong."""
    annotations = [Path(name) for name in flags.annotations]
    root = Path(flags.images)
    if not root.is_dir():
        raise InputError(f"folder of images not found: {root}", "give an existing folder with --images")
    for path in annotations:
        if not path.is_file():
            raise InputError(f"annotations not found: {path}", "give existing files with --annotations")
    folder = Folder(Path(flags.out))
    images = (image for path in annotations for image in read_annotations(path))
    wanted = wanted_job("pack", flags, annotations, {})
    processes = num_processes(flags)

    def make_shards(job: Job, pool: ProcessPoolExecutor, told: PartProgress) -> None:
        arguments = pack_arguments(job, [path.name for path in annotations])
        pack_shards(folder, job, root, flags.max_image_bytes, arguments, pool, processes, told)

    return make(folder, wanted, images, processes, make_shards)
