"""The script with the real trainer on real shards: two Slurm tasks on the CPU, and plain bash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm.local_slurm import LocalSlurm
from tests.support.tiny_run import tiny_recipe

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "slurm" / "pretrain.sh"


def steps_of(run_dir: Path) -> list[int]:
    """The steps in metrics.jsonl, in its order."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if "train/loss" in row]


@pytest.mark.timeout(600)
def test_two_slurm_tasks_train_stop_requeue_and_finish(slurm: LocalSlurm, tmp_path: Path) -> None:
    """USR1 in mid-run: both ranks save and leave, the job requeues, and the metrics hold every step exactly once."""
    tiny_recipe(tmp_path, max_steps=40, checkpoint={"save_every": 5})
    run_dir = tmp_path / "runs" / "tiny"
    options = ["--ntasks-per-node=2", "--cpus-per-task=1", "--time=30", f"--export=ALL,PYTHON={sys.executable}"]
    job = slurm.submit(*options, SCRIPT, "tiny.yaml", cwd=tmp_path)
    deadline = time.monotonic() + 240
    while not (run_dir / "checkpoints" / "latest").exists():
        assert time.monotonic() < deadline, (run_dir / f"slurm-{job}.out").read_text()
        time.sleep(0.05)
    slurm.command("scancel", "--signal=USR1", str(job))
    fields = slurm.wait_for(job, "COMPLETED", "FAILED", "CANCELLED", timeout_s=240)
    text = (run_dir / f"slurm-{job}.out").read_text()
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1"), text
    assert "rank 0 of 2 on cpu" in text
    assert steps_of(run_dir) == list(range(1, 41))
    assert (run_dir / "checkpoints" / "latest").read_text() == "step_00000040"


def test_bash_alone_trains_one_rank(tmp_path: Path) -> None:
    """Without Slurm and without a launcher, from a folder that is not the project's."""
    tiny_recipe(tmp_path)
    words = ["bash", str(SCRIPT), "tiny.yaml", "--max_steps", "3", "--run-dir", "here"]
    settings = os.environ | {"PYTHON": sys.executable, "NPROC": "1"}
    done = subprocess.run(words, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert steps_of(tmp_path / "here") == [1, 2, 3]


def test_a_mistake_in_the_recipe_is_told_once_a_rank_and_exits_2(tmp_path: Path) -> None:
    """The trainer's error and hint reach the person, the launcher adds nothing, and 2 is the script's exit code."""
    tiny_recipe(tmp_path)
    words = ["bash", str(SCRIPT), "tiny.yaml", "--optim.lrr", "1"]
    settings = os.environ | {"PYTHON": sys.executable, "NPROC": "1"}
    done = subprocess.run(words, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error:" in done.stderr and "hint:" in done.stderr and "Traceback" not in done.stderr
