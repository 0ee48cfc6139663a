"""All errors with which `pretrain` would end before its first step: needs no GPU, and reads no weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from base.errors import UserError
from pipeline.checkpoints.layout import has_checkpoints
from pipeline.config.run_config import RunConfig
from pipeline.data import shared_memory, socket_folder
from pipeline.data.corpus.protocol import Corpus
from pipeline.data.sampling.epoch_order import LaneOrder
from pipeline.data.sampling.lane_plan import lane_order
from pipeline.run.data_fingerprint import difference
from pipeline.run.folder import RunFolder, compare_with_previous
from pipeline.run.retrying_file import unwritable
from pipeline.task_maker import TaskMaker


def refusals(run: RunConfig, run_dir: Path, maker: TaskMaker, *, resume: str, without_data: bool) -> list[UserError]:
    """The errors with which training would end, in the order in which it would meet them.

    Args:
        without_data: skip the checks of the training data, which does not exist yet.
    """
    folder = RunFolder(path=run_dir)
    checks: list[Callable[[], object]] = [
        lambda: _run_folder(folder, run, resume),
        *([] if without_data else [lambda: _data(folder, run, maker)]),
        *([socket_folder.settle] if run.data.num_workers else []),
        *maker.checks(run),
    ]
    found = []
    for check in checks:
        try:
            check()
        except UserError as error:
            found.append(error)
    return found


def shared_memory_warning(run: RunConfig, world_size: int) -> str | None:
    """A line if this machine's /dev/shm may be too small for one rank's workers."""
    needed = shared_memory.needed_bytes(
        num_workers=run.data.num_workers,
        prefetch=run.data.prefetch,
        lanes=run.batch.num_lanes // world_size,
        micro_batch_size=run.batch.micro_batch_size,
        image_size=run.model.image_size,
        images_per_sample=run.images_per_sample,
    )
    return shared_memory.shortage(needed)


def order_of(run: RunConfig, corpus: Corpus) -> LaneOrder:
    """The order in which a recipe's steps take the corpus. Raises: DataError when it is too small."""
    return lane_order(
        corpus,
        seed=run.seed,
        window_shards=run.data.window_shards,
        weights=run.data.source_weights,
        micro_batch_size=run.batch.micro_batch_size,
        num_lanes=run.batch.num_lanes,
    )


def _run_folder(folder: RunFolder, run: RunConfig, resume: str) -> None:
    above = next(path for path in (folder.path, *folder.path.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".check-", dir=above):
            pass
    except OSError as error:
        raise unwritable(folder.path, error) from error
    compare_with_previous(folder, run)
    folder.check_resume(resume, has_checkpoints(folder.checkpoints))


def _data(folder: RunFolder, run: RunConfig, maker: TaskMaker) -> None:
    corpus = maker.corpus(run)
    corpus.check()
    order_of(run, corpus)
    if (problem := difference(folder, corpus)) is not None:
        raise problem
