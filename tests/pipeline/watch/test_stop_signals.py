"""Asking a real training run to stop: by each signal and the stop file, to one rank or to all; and twice by Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.poison import keep_process_group
from tests.support.ranks import run_ranks
from tests.support.tiny_run import tiny_recipe
from tests.support.wrapped_task import WrappedTask, pretrain_with

ASKED: list[tuple[str, tuple[int, ...]]] = [
    ("SIGTERM", (0,)),
    ("SIGTERM", (0, 1)),
    ("SIGUSR1", (1,)),
    ("SIGUSR1", (0, 1)),
    ("SIGINT", (1,)),
    ("SIGINT", (0, 1)),
    ("stop", (1,)),
]
"""How the stop is requested, and of which ranks; every rank sees the file."""


def stopped_again_and_again(rank: int, _world: int, recipe: str, folder: str) -> list[tuple[int, list[int]]]:
    """One start after the other, all but the last asked to stop in the second step; exit code and steps of each."""
    from pipeline.run.folder import RunFolder

    keep_process_group()
    starts = []
    for how, whom in [*ASKED, ("", ())]:
        steps: list[int] = []

        def ask(_task: Any, _engine: Any, step: int, how: str = how, whom: Any = whom, steps: Any = steps) -> None:
            steps.append(step + 1)
            if len(steps) != 2 or rank not in whom:
                return
            if how == "stop":
                RunFolder(path=Path(folder)).stop_file.touch()
            else:
                os.kill(os.getpid(), getattr(signal, how))

        starts.append((pretrain_with(partial(WrappedTask, before=ask), recipe, folder), steps))
    return starts


def test_the_ranks_agree_save_and_leave_together(tmp_path: Path) -> None:
    """SIGTERM, SIGUSR1, SIGINT and the stop file, to one rank or to both: each start takes two steps, saves, and ends
    with 75 on both; the next one resumes there, and the last one ends the run."""
    recipe = tiny_recipe(tmp_path, max_steps=2 * len(ASKED) + 2)
    results = run_ranks(
        stopped_again_and_again, 2, str(recipe), str(tmp_path / "run"), process_group=False, timeout_s=400
    )
    expected = [(75, [2 * start + 1, 2 * start + 2]) for start in range(len(ASKED))]
    expected.append((0, [2 * len(ASKED) + 1, 2 * len(ASKED) + 2]))
    assert results == [expected, expected]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, 2 * len(ASKED) + 3))
    log = (tmp_path / "run" / "logs" / "local" / "rank_0.log").read_text()
    lines_of = re.findall(r"stopped by (another rank|SIG\w+|the stop file).*: saved at step (\d+)", log)
    logged = {int(step): why for why, step in lines_of}  # the log files of all starts are one here, and copies of it
    reasons = ["the stop file" if how == "stop" else how if 0 in whom else "another rank" for how, whom in ASKED]
    assert logged == {2 * start + 2: reason for start, reason in enumerate(reasons)}


def interrupted_in_a_collective(rank: int, _world: int, recipe: str, folder: str) -> int:
    """Rank 1 stays away from the third step; rank 0, which waits for it in C++, hears SIGINT twice."""
    file = Path(folder) / "pid"

    def before(_task: Any, _engine: Any, step: int) -> None:
        if step != 2:
            return
        if rank == 0:
            file.write_text(str(os.getpid()))
            return
        while not (file.exists() and (pid := file.read_text())):
            time.sleep(0.05)
        time.sleep(3.0)  # rank 0 computes its lane and then waits
        os.kill(int(pid), signal.SIGINT)
        time.sleep(1.0)
        os.kill(int(pid), signal.SIGINT)
        time.sleep(1000)

    return pretrain_with(partial(WrappedTask, before=before), recipe, Path(folder) / "run")


class InterruptedInASave(WrappedTask):
    """SIGINT arrives while a checkpoint asks for the state."""

    def state(self) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1000)
        return self.task.state()


def interrupted_while_saving(_rank: int, _world: int, recipe: str, folder: str) -> int:
    """The first SIGINT in the second step; the second one while the checkpoint that it asked for is written."""

    def before(_task: Any, _engine: Any, step: int) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    return pretrain_with(partial(InterruptedInASave, before=before), recipe, Path(folder) / "run")


@pytest.mark.parametrize(
    ("function", "codes"), [(interrupted_in_a_collective, {0: 130, 1: 69}), (interrupted_while_saving, {0: 130})]
)
def test_a_second_sigint_leaves_at_once(tmp_path: Path, function: Any, codes: dict[int, int]) -> None:
    """130, in a collective whose other rank never comes (which then learns that its peer is gone), and in a save."""
    with pytest.raises(RuntimeError) as ended:
        recipe = str(tiny_recipe(tmp_path))
        run_ranks(function, len(codes), recipe, str(tmp_path), process_group=False, timeout_s=200)
    found = re.findall(r"rank (\d) of \d ended with exit code (-?\d+)", str(ended.value))
    assert {int(rank): int(code) for rank, code in found} == codes
    assert not (tmp_path / "run" / "checkpoints" / "latest").exists()
