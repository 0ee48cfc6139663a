"""`bash slurm/finetune.sh` on a machine without Slurm: what it has beside what it shares with slurm/pretrain.sh."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.test_pretrain_bash import environment, latest, wait_for_a_step


def start(project: Path, where: Path, *words: str, **settings: str) -> subprocess.Popen[str]:
    command = ["bash", str(project / "slurm" / "finetune.sh"), *words]
    out = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=where, env=environment(**settings), stdout=out, stderr=subprocess.STDOUT, text=True
    )


def test_a_signal_stops_all_ranks_and_the_same_command_resumes(project: Path, tmp_path: Path) -> None:
    """Exit code 75, then 0, in the run folder named after the recipe; each start and its end are recorded."""
    first = start(project, tmp_path, "vqa", "recipes/toy.yaml", "--steps", "100000", NPROC="2")
    wait_for_a_step(tmp_path, first)
    first.send_signal(signal.SIGUSR1)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 75 and "rank 1 of 2 at step 0 vqa recipe recipes/toy.yaml" in output, output
    done = int(latest(tmp_path).removeprefix("step_"))
    again = start(project, tmp_path, "vqa", "recipes/toy.yaml", "--steps", str(done + 2), NPROC="1")
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0 and f"rank 0 of 1 at step {done} vqa" in output, output
    ends = (tmp_path / "runs" / "toy" / "ends.log").read_text().splitlines()
    assert [line.split()[2:4] for line in ends] == [["start=1", "code=75"], ["start=2", "code=0"]]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), "no task given"),
        (("--steps", "3"), "--steps is not a task"),
        (("vqa",), "no recipe given"),
        (("vqa", "--seed", "3"), "--seed is not a recipe"),
    ],
)
def test_without_task_and_recipe_it_explains_what_to_type(
    project: Path, tmp_path: Path, words: tuple[str, ...], error: str
) -> None:
    """The error and the way out, nothing made."""
    refused = start(project, tmp_path, *words, PYTHON=sys.executable)
    output, _ = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert output.startswith(f"error: {error}\nhint: sbatch slurm/finetune.sh TASK RECIPE"), output
    assert not (tmp_path / "runs").exists()
