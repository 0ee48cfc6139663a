"""The script with the real trainer on real shards: two Slurm tasks on the CPU, and plain bash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.watch.status import read_status
from tests.slurm.local_slurm import LocalSlurm
from tests.support.data_prep_runs import wait_for
from tests.support.tiny_run import tiny_recipe
from tests.support.training_runs import digest, losses, newest
from tests.support.training_runs import run as train_to_the_end

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "slurm" / "pretrain.sh"


def steps_of(run_dir: Path) -> list[int]:
    """The steps in metrics.jsonl, in its order."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if "train/loss" in row]


def latest(run_dir: Path) -> int:
    path = run_dir / "checkpoints" / "latest"
    return int(path.read_text().removeprefix("step_")) if path.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_nodes_interrupted_three_times_end_with_the_weights_of_an_undisturbed_run(
    slurm: LocalSlurm, tmp_path: Path
) -> None:
    """USR1 as before the time limit, `scontrol requeue`, then a node that dies with its rank: every byte of weights,
    teacher and queue, and every loss, are those of two ranks that nobody disturbed, started without Slurm."""
    steps = ["--max_steps=120", "--checkpoint.save_every=4"]
    tiny_recipe(tmp_path)
    run_dir = tmp_path / "runs" / "tiny"
    options = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--time=60"]
    job = slurm.submit(*options, SCRIPT, "tiny.yaml", *steps, cwd=tmp_path, PYTHON=sys.executable)

    def lose_a_node() -> None:
        slurm.pull_the_plug(2)
        slurm.command("scontrol", "update", "nodename=node2", "state=down", "reason=test")
        slurm.wait_for(job, "PENDING")
        slurm.plug_in(2)

    began_at = []
    for disturb in (
        lambda: slurm.command("scancel", "--signal=USR1", str(job)),
        lambda: slurm.command("scontrol", "requeue", str(job)),
        lose_a_node,
    ):
        began_at.append(latest(run_dir))
        wait_for(lambda: latest(run_dir) > began_at[-1], "another checkpoint", 300)
        disturb()
        slurm.wait_for(job, "PENDING", "COMPLETED", "FAILED")
    fields = slurm.wait_for(job, "COMPLETED", "FAILED", "CANCELLED", timeout_s=300)
    text = (run_dir / f"slurm-{job}.out").read_text()
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "3"), text
    assert "rank 0 of 2 on cpu" in text
    starts = [line.rpartition("=")[2] for line in (run_dir / "starts.log").read_text().splitlines()]
    assert starts[0] == "none" and starts[1:] == sorted(set(starts[1:])), "each start gets further than the last"
    assert steps_of(run_dir) == list(range(1, 121))

    undisturbed = train_to_the_end(tmp_path, "undisturbed", ranks=2, overrides=steps)
    assert digest(newest(run_dir)) == digest(undisturbed)
    assert losses(run_dir) == losses(undisturbed.parents[1])
    status = read_status(run_dir)
    assert (status.stage, status.step, status.starts, status.requeues) == ("finished", 120, 4, 3)


def test_bash_alone_trains_one_rank(tmp_path: Path) -> None:
    """Without Slurm and without a launcher, from a folder that is not the project's."""
    tiny_recipe(tmp_path)
    words = ["bash", str(SCRIPT), "tiny.yaml", "--max_steps", "3", "--run-dir", "here"]
    settings = os.environ | {"PYTHON": sys.executable, "NPROC": "1"}
    done = subprocess.run(words, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert steps_of(tmp_path / "here") == [1, 2, 3]


def test_a_mistake_in_the_recipe_is_reported_once_a_rank_and_exits_2(tmp_path: Path) -> None:
    """The trainer's error and hint reach the person, the launcher adds nothing, and 2 is the script's exit code."""
    tiny_recipe(tmp_path)
    words = ["bash", str(SCRIPT), "tiny.yaml", "--optim.lrr", "1"]
    settings = os.environ | {"PYTHON": sys.executable, "NPROC": "1"}
    done = subprocess.run(words, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error:" in done.stderr and "hint:" in done.stderr and "Traceback" not in done.stderr
