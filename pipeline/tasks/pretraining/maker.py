"""Pretraining for the commands: how a run and planning get the task, and the start of a run."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.run_config import PretrainingRun
from pipeline.task_maker import TaskMaker
from pipeline.tasks.pretraining.collate import PretrainBatcher
from pipeline.tasks.pretraining.readiness import checks, corpus
from pipeline.tasks.pretraining.sketch import batch_lines, bytes_beside, noise, sketch
from pipeline.tasks.pretraining.task import Pretraining

PRETRAINING = TaskMaker(
    corpus=corpus,
    make=Pretraining.of_run,
    batch_module=PretrainBatcher.__module__,
    sketch=sketch,
    noise=noise,
    bytes_beside=bytes_beside,
    batch_lines=batch_lines,
    checks=checks,
)


def pretrain(run: PretrainingRun, run_dir: Path, *, resume: str = "auto") -> int:
    """Pretrain a recipe; see `pipeline.train.train`."""
    from pipeline.train import train  # and DeepSpeed with it, which `check` does not need

    return train(run, run_dir, PRETRAINING, resume=resume)
