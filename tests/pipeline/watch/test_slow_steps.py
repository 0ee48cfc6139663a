"""Logging steps that take many times as long as usual."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.engine.distributed import World
from pipeline.watch import slow_steps
from pipeline.watch.slow_steps import ENOUGH, WARM_UP, SlowSteps
from tests.support.ranks import run_ranks
from tests.support.tiny_run import tiny_recipe
from tests.support.wrapped_task import WrappedTask, pretrain_with


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The lines that are logged."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Keep()
    logging.getLogger("pipeline.watch.slow_steps").addHandler(handler)
    yield lines
    logging.getLogger("pipeline.watch.slow_steps").removeHandler(handler)


def watcher(rank: int = 0, factor: float = 5.0) -> SlowSteps:
    """One that has seen enough steps of 0.2 s."""
    slow = SlowSteps(factor, World(rank=rank, local_rank=rank, size=2, device=torch.device("cpu")))
    for step in range(WARM_UP + ENOUGH):
        slow.note(step + 1, 0.2, 0.0, ["a"])
    return slow


def test_a_slow_step_is_logged_with_its_reason(logged: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """1.5 s where 0.2 s are usual; 0.9 s are not five times as much. One line a minute, which counts the others."""
    slow = watcher()
    slow.note(14, 0.9, 0.0, ["b"])
    assert (slow.total, logged) == (0, [])
    slow.note(15, 1.5, 1.2, ["c"])
    slow.note(16, 2.0, 0.0, ["d"])
    assert (slow.total, len(logged)) == (2, 1)
    assert logged == ["step 15 took 1.50 s, 8 times the usual 0.20 s; 80% of it waiting for data, from sample c on"]
    monkeypatch.setattr(slow_steps, "INTERVAL_S", 0.0)
    slow.note(17, 2.0, 0.0, ["e"])
    assert logged[1].endswith("(1 others were slow since the last such line)")


def test_only_the_rank_that_waited_for_data_logs_beside_rank_0(logged: list[str]) -> None:
    """The others are slow because they wait for it: each counts, but logs nothing."""
    for wait_s, lines in ((0.1, 0), (1.0, 1)):
        slow = watcher(rank=1)
        slow.note(14, 1.5, wait_s, ["b"])
        assert (slow.total, len(logged)) == (1, lines)


def test_warming_up_and_a_factor_of_0_log_nothing(logged: list[str]) -> None:
    """The first steps are slow for good reasons, and do not count as usual."""
    slow = SlowSteps(5.0, World(rank=0, local_rank=0, size=1, device=torch.device("cpu")))
    for step in range(WARM_UP):
        slow.note(step + 1, 60.0, 0.0, ["a"])
    for step in range(ENOUGH):
        slow.note(step + 10, 0.2, 0.0, ["a"])
    slow.note(30, 1.5, 0.0, ["a"])
    off = watcher(factor=0.0)
    off.note(14, 60.0, 0.0, ["b"])
    assert (slow.total, off.total, len(logged)) == (1, 0, 1)


def run_with_a_slow_step(_rank: int, _world: int, recipe: str, run_dir: str) -> int:
    """Step 16 of 17 sleeps ten times as long as all the others took on average: twice what is slow."""
    began: list[float] = []

    def before(_task: Any, _engine: Any, step: int) -> None:
        began.append(time.monotonic())
        if step == 15:
            time.sleep(10 * (began[-1] - began[0]) / (len(began) - 1))

    return pretrain_with(partial(WrappedTask, before=before), recipe, run_dir)


def test_a_run_counts_its_slow_steps(tmp_path: Path) -> None:
    """The scalar has risen by the one that slept."""
    recipe = tiny_recipe(tmp_path, max_steps=17)
    codes = run_ranks(run_with_a_slow_step, 1, str(recipe), str(tmp_path / "run"), process_group=False, timeout_s=300)
    assert codes == [0]
    lines = {line["step"]: line for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").open())}
    assert lines[17]["speed/slow_steps"] == lines[16]["speed/slow_steps"] + 1
