"""The engine and the step that `bench` measures: those of the trainer, on noise and from random weights."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from albef.config import InitConfig
from albef.errors import TrainingError
from pipeline.config.run_config import RunConfig
from pipeline.config.sections import ValidationConfig
from pipeline.engine.distributed import World
from pipeline.engine.ds_config import resolve_ds_config
from pipeline.tasks.pretraining.maker import PRETRAINING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.train import StepParts


def build_parts(recipe: RunConfig, world: World) -> StepParts:
    """The recipe's task and engine as `pipeline.train.build` makes them, without run folder, loader and validation."""
    from pipeline.data.sampling.lanes import lanes_of_rank
    from pipeline.train import StepParts, start_engine

    run = dataclasses.replace(recipe, init=InitConfig(), validation=ValidationConfig())
    ds = resolve_ds_config(run, world.size)
    task = PRETRAINING.make(run, world, ds.compute_dtype)
    return StepParts(
        run=run,
        world=world,
        ds=ds,
        task=task,
        engine=start_engine(run, ds, task, world),
        lanes=lanes_of_rank(world.rank, world.size, run.batch.num_lanes),
        steps_per_epoch=1,  # what rises over the first epoch has risen
        total_steps=run.total_steps(1_000),
    )


class BenchStep:
    """Takes the trainer's step again and again, on one batch of noise for each lane."""

    def __init__(self, parts: StepParts) -> None:
        self.parts, self.step = parts, 0
        run, on_gpu = parts.run, parts.world.device.type == "cuda"
        lanes = [PRETRAINING.noise(run, run.batch.micro_batch_size) for _ in parts.lanes]
        self.lanes = [lane.pin_memory() if on_gpu else lane for lane in lanes]

    @property
    def device(self) -> torch.device:
        """Of the rank."""
        return self.parts.world.device

    def __call__(self, phase: Callable[[str], None] = lambda part: None) -> None:
        from pipeline.data.loader import StepBatches
        from pipeline.train import train_step

        self.step += 1
        result = train_step(self.parts, StepBatches(step=self.step, epoch=1, lanes=self.lanes, skipped={}), phase)
        if result.check.skipped:
            raise TrainingError(
                "a step on noise was skipped: its losses or its gradient are not finite",
                "lower optim.lr, or try --deepspeed.config zero1_fp32",
            )

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def states(self) -> dict[str, int]:
        """Bytes of what is kept from step to step, by name; takes a step to see its gradient."""
        from pipeline.engine.state_bytes import state_bytes

        found: dict[str, int] = {}

        def look(part: str) -> None:
            if part == "check":  # the gradient is whole, and the activations are gone
                found.update(state_bytes(self.parts.engine))

        self(look)
        return found | dict(PRETRAINING.bytes_beside(self.parts.task))
