"""kill -9 during training, then the same command again: nothing is lost, and the result is the undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipeline.checkpoints.layout import find_checkpoint
from tests.support.tiny_run import tiny_recipe
from tests.support.training_runs import digest, losses, newest

ROOT = Path(__file__).parents[3]
OVERRIDES = ["--max_steps=24", "--checkpoint.save_every=2"]


def start(recipe: Path, run_dir: Path) -> subprocess.Popen[bytes]:
    """The command a user types, in its own process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "pretrain", str(recipe), "--run-dir", str(run_dir), *OVERRIDES],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[bytes]) -> str:
    """Wait for exit code 0; returns what it printed."""
    _, printed = process.communicate(timeout=240)
    assert process.returncode == 0, printed.decode()
    return printed.decode()


def kill_after(process: subprocess.Popen[bytes], run_dir: Path, checkpoint: str) -> None:
    """kill -9 the whole process group as soon as `latest` names that checkpoint: the next save may be under way."""
    latest = run_dir / "checkpoints" / "latest"
    deadline = time.monotonic() + 200
    while not (latest.exists() and latest.read_text() >= checkpoint):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint in 200 s"
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_killed_twice_in_training_and_finished_by_the_same_command(tmp_path):
    """Saves every second step; killed after steps 4 and 12; then weights, teacher, queue and curves are those of the
    run that was left alone, to the last bit."""
    recipe = tiny_recipe(tmp_path)
    finish(start(recipe, tmp_path / "alone"))
    run_dir = tmp_path / "killed"
    for checkpoint in ("step_00000004", "step_00000012"):
        kill_after(start(recipe, run_dir), run_dir, checkpoint)
        assert find_checkpoint(run_dir / "checkpoints") is not None
    printed = finish(start(recipe, run_dir))
    assert "resuming from" in printed
    assert digest(newest(run_dir)) == digest(newest(tmp_path / "alone"))
    assert losses(run_dir) == losses(tmp_path / "alone")
