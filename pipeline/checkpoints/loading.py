"""Loading a checkpoint into a run that is about to resume. Nothing that is read can run code, in any layout."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from albef.errors import CheckpointError
from albef.weights.files import first_line
from albef.weights.tensor_file import read_tensors
from pipeline.checkpoints.deepspeed_engine_files import RestrictedFiles
from pipeline.checkpoints.deepspeed_files import UNREADABLE
from pipeline.checkpoints.layout import random_state_file, state_file
from pipeline.checkpoints.meta import USE_ANOTHER, CheckpointMeta
from pipeline.checkpoints.reshard import load_into_engine
from pipeline.engine.distributed import World
from pipeline.task import Task
from samples.quote import quote

log = logging.getLogger(__name__)


def load_checkpoint(
    path: Path,
    meta: CheckpointMeta,
    engine: Any,
    task: Task,
    *,
    world: World,
    zero_stage: int,
    precision: str,
) -> None:
    """Bring engine, task and random state to where the save left them, on every rank; a collective.

    The layout that saved is loaded by DeepSpeed's own code, from what torch's restricted unpickler reads. Any other
    number of ranks, ZeRO stage or precision takes the same weights and moments piece by piece (`reshard.py`).

    Args:
        path: a checkpoint that is verified, and its `meta`.

    Raises: CheckpointError, the same on every rank, when a file holds something else than it should on any of them.
    """
    now = {"world_size": world.size, "zero_stage": zero_stage, "precision": precision}
    changed = [f"{name} {old} -> {value}" for name, value in now.items() if (old := getattr(meta, name)) != value]
    if changed:
        log.info("%s was saved under another layout: %s", path, quote(", ".join(changed)))
        _on_all_ranks(path, world, lambda: load_into_engine(engine, path, meta))
    else:
        files = RestrictedFiles(path, meta, rank=world.rank)
        # Read on all ranks before DeepSpeed's code runs on any: it communicates, and would wait for a rank that failed.
        _on_all_ranks(path, world, files.read)
        _on_all_ranks(path, world, lambda: files.load_into(engine))

    def load_ours() -> None:
        task.load_state({name: read_tensors(path / state_file(name)) for name in task.state()})
        _load_random_state(path, world.rank)

    _on_all_ranks(path, world, load_ours)


def _on_all_ranks(path: Path, world: World, load: Callable[[], None]) -> None:
    """Call `load`; if it fails on any rank, every rank raises what the first of them met: none waits for another."""
    problem: CheckpointError | None = None
    try:
        load()
    except CheckpointError as error:
        named = str(path) in error.message
        problem = error if named else CheckpointError(f"{path}: {error.message}", USE_ANOTHER)
    except UNREADABLE as error:
        problem = CheckpointError(f"{path} cannot be loaded: {quote(first_line(error))}", USE_ANOTHER)
    for of_rank in world.gather_objects(problem):
        if of_rank is not None:
            raise of_rank


def _load_random_state(path: Path, rank: int) -> None:
    """Nothing in a step draws from it (the draws are named by seed, epoch, step and lane); a new rank keeps its own."""
    file = path / random_state_file(rank)
    if not file.is_file():
        return
    state = read_tensors(file)
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
