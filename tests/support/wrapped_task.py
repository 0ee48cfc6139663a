"""A task around the real one: a test watches, breaks or stops chosen steps of a real training run with it."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.task import LaneLosses, LaneStep

StepCall = Callable[[Any, Any, int], object]
"""Called with the task, the engine and the step's number, from 0."""
LaneCall = Callable[[Any, Any, Any, LaneStep], LaneLosses]
"""Called with the task and what `Task.losses` is called with; returns that lane's losses."""
Wrap = Callable[[Any], Any]
"""Makes a task out of a task."""


def nothing(_task: Any, _engine: Any, _step: int) -> None:
    """Leave a step as it is."""


def real_losses(task: Any, engine: Any, batch: Any, at: LaneStep) -> LaneLosses:
    """Leave a lane as it is."""
    return task.losses(engine, batch, at)


class WrappedTask:
    """A `pipeline.task.Task` that is `task`, and calls back before and after every step and in every lane.

    Args:
        before: called before the first of this rank's lanes.
        lane: called in place of `losses`.
        after: called when the step was taken or skipped, after `task`'s own `advance` or `discard`.
    """

    def __init__(
        self, task: Any, *, before: StepCall = nothing, lane: LaneCall = real_losses, after: StepCall = nothing
    ) -> None:
        self.task, self._before, self._lane, self._after = task, before, lane, after
        self._engine: Any = None
        self._step = -1

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def losses(self, engine: Any, batch: Any, at: LaneStep) -> LaneLosses:
        if at.step != self._step:
            self._engine, self._step = engine, at.step
            self._before(self.task, engine, at.step)
        return self._lane(self.task, engine, batch, at)

    def advance(self, engine: Any, *, steps_done: int) -> None:
        self.task.advance(engine, steps_done=steps_done)
        self._after(self.task, engine, self._step)

    def discard(self) -> None:
        self.task.discard()
        self._after(self.task, self._engine, self._step)


def wrapped(maker: Any, wrap: Wrap) -> Any:
    """A `pipeline.task_maker.TaskMaker` whose task is what `wrap` makes of the given one's."""
    return dataclasses.replace(maker, make=lambda *arguments: wrap(maker.make(*arguments)))


def pretrain_with(wrap: Wrap, recipe: str | Path, run_dir: str | Path, overrides: Sequence[str] = ()) -> int:
    """`pipeline pretrain` with the task that `wrap` makes of pretraining; returns the exit code."""
    from pipeline.config.resolve import load_config
    from pipeline.tasks.pretraining.maker import PRETRAINING
    from pipeline.train import train

    return train(load_config(Path(recipe), list(overrides)), Path(run_dir), wrapped(PRETRAINING, wrap))


def stop_after(step: int, *, on_this_rank: bool) -> StepCall:
    """This process, if it is the one, gets SIGUSR1 at the end of `step`, counted from 1."""

    def signal_self(_task: Any, _engine: Any, number: int) -> None:
        if on_this_rank and number + 1 == step:
            os.kill(os.getpid(), signal.SIGUSR1)

    return signal_self
