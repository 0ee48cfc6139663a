"""Flags that `download`, `pack` and `import` share, and the job they describe."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from base import flag_types
from base.errors import UsageError
from data_prep.fetch.retrying_opener import FetchLimits
from data_prep.output.job import Folder, ImageSettings, Job, default_source, hash_inputs
from data_prep.output.parts import WHOLE, Part
from data_prep.output.storage import is_remote, storage_location
from data_prep.sources.list_file import is_list, list_source


def add_out(parser: argparse.ArgumentParser) -> None:
    """`--out` and `--work`; see `output_folder`."""
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="folder or URI (s3://bucket/prefix) for shards and manifest; the same to resume",
    )
    parser.add_argument("--work", metavar="DIR", help="with a URI: folder on this machine for work in progress")


def output_folder(flags: argparse.Namespace, part: Part = WHOLE) -> Folder:
    """The folder that `--out` and `--work` name. Raises: UsageError when they do not fit together."""
    root = storage_location(flags.out)
    if is_remote(root) and flags.work is None:
        raise UsageError(
            f"--out {flags.out} is a URI, and work in progress needs a disk", "give a local folder with --work"
        )
    if not is_remote(root) and flags.work is not None:
        raise UsageError(f"--work goes with a URI, and --out {flags.out} is a folder", "leave --work out")
    return Folder(root, part, None if flags.work is None else Path(flags.work))


def add_shard_flags(parser: argparse.ArgumentParser) -> None:
    """What shapes a shard, and must stay the same to resume a job."""
    images = ImageSettings()
    parser.add_argument(
        "--source", metavar="NAME", help="name of the source, in keys and manifest (default: the list's)"
    )
    parser.add_argument(
        "--shard-size", type=flag_types.positive, default=10_000, metavar="N", help="listed rows a shard (10000)"
    )
    parser.add_argument(
        "--image-size",
        type=flag_types.positive,
        default=images.image_size,
        metavar="PX",
        help="shortest side, never enlarged (288)",
    )
    parser.add_argument(
        "--jpeg-quality", type=flag_types.quality, default=images.jpeg_quality, metavar="Q", help="1 to 95 (95)"
    )
    parser.add_argument(
        "--max-pixels",
        type=flag_types.positive,
        default=images.max_pixels,
        metavar="N",
        help="refuse larger originals (100000000)",
    )
    add_max_image_bytes(parser)


def add_max_image_bytes(parser: argparse.ArgumentParser) -> None:
    """`--max-image-bytes`."""
    parser.add_argument(
        "--max-image-bytes",
        type=flag_types.positive,
        default=FetchLimits().max_image_bytes,
        metavar="N",
        help="refuse files with more bytes (50000000)",
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    """`--processes`; see `num_processes`."""
    parser.add_argument("--processes", type=flag_types.positive, metavar="N", help="workers (default: one a core)")


def num_processes(flags: argparse.Namespace) -> int:
    """`--processes`, or the number of cores this process may use."""
    return int(flags.processes or len(os.sched_getaffinity(0)))


def wanted_job(
    kind: str, flags: argparse.Namespace, inputs: Sequence[Path], reading: dict[str, Any], named: dict[str, Any]
) -> Job:
    """The job that the flags describe.

    Args:
        reading: what decides how the inputs are read, for their hash.
        named: value by flag, which names what changed in an error; see `Job.flags`.
    Raises: UsageError for a source that is no name.
    """
    default = _source_of(inputs[0]) if flags.source is None else ""
    return job_of(kind, flags, default, hash_inputs(inputs, reading), named)


def job_of(kind: str, flags: argparse.Namespace, default: str, inputs_sha256: str, named: dict[str, Any]) -> Job:
    """As `wanted_job`, for inputs that are hashed another way; `default` is the source's name without --source."""
    source = default if flags.source is None else flags.source
    if default_source(Path(source)) != source:
        raise UsageError(f"--source {source!r} is not a name", "use lower-case letters, digits and underscores")
    return Job(
        kind=kind,
        source=source,
        inputs_sha256=inputs_sha256,
        shard_size=flags.shard_size,
        images=ImageSettings(image_size=flags.image_size, jpeg_quality=flags.jpeg_quality, max_pixels=flags.max_pixels),
        flags={**named, "--max-image-bytes": flags.max_image_bytes},
    )


def _source_of(listed: Path) -> str:
    return default_source(Path(list_source(listed)) if is_list(listed) else listed)
