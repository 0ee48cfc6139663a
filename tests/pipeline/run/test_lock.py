"""The same run started twice: the second start is refused, and the first is not disturbed."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from albef.errors import ConfigError
from pipeline.engine.distributed import World
from pipeline.run import lock as run_lock
from pipeline.run.lock import exclusive_run
from tests.support.ranks import run_ranks
from tests.support.tiny_run import tiny_recipe

ROOT = Path(__file__).parents[3]
ALONE = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
HOLD = """
import sys, time, torch
from pathlib import Path
from pipeline.engine.distributed import World
from pipeline.run.lock import exclusive_run
with exclusive_run(Path(sys.argv[1]), World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def _no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests may run in a Slurm job."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def holder(run_dir: Path, seconds: float) -> subprocess.Popen[str]:
    """Another process that holds the folder for this long, once this returns."""
    words = [sys.executable, "-c", HOLD, str(run_dir), str(seconds)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_start_in_the_same_folder_is_refused_and_the_first_continues(tmp_path: Path) -> None:
    """Exit code 2, an error that names the process, nothing written; then the first is stopped, and resumes later."""
    recipe, run_dir = tiny_recipe(tmp_path), tmp_path / "run"
    words = [sys.executable, "-m", "pipeline", "pretrain", str(recipe), "--run-dir", str(run_dir)]
    settings = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    forever = ["--max_steps=1000000", "--checkpoint.save_every=5"]
    first = subprocess.Popen([*words, *forever], cwd=ROOT, env=settings, stdout=subprocess.DEVNULL)
    latest = run_dir / "checkpoints" / "latest"
    deadline = time.monotonic() + 120
    while not latest.exists():
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    before = (run_dir / "env.json").read_bytes()
    second = subprocess.run([*words, *forever], cwd=ROOT, env=settings, capture_output=True, text=True, timeout=200)
    assert second.returncode == 2
    who = f"process {first.pid} on {platform.node()}"
    assert f"error: another run is training in {run_dir}: {who}\nhint: wait for its end" in second.stderr
    assert (run_dir / "env.json").read_bytes() == before
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=120) == 75
    step = int(latest.read_text().removeprefix("step_"))
    again = subprocess.run([*words, f"--max_steps={step + 1}"], cwd=ROOT, env=settings, capture_output=True, text=True)
    assert again.returncode == 0 and "resuming from" in again.stderr, again.stderr


def test_a_start_waits_for_the_one_before_it(tmp_path: Path) -> None:
    """It is about to end, which may take as long as a save."""
    process = holder(tmp_path / "run", seconds=1.5)
    with exclusive_run(tmp_path / "run", ALONE):
        assert process.wait(timeout=10) == 0
        assert (tmp_path / "run" / "lock").read_text() == f"process {os.getpid()} on {platform.node()}\n"


def test_what_was_killed_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "PATIENCE_S", 0.0)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    process = holder(tmp_path, seconds=600)
    who = f"another run is training in {tmp_path}: process {process.pid} on {platform.node()}, Slurm job 4711"
    with pytest.raises(ConfigError, match=re.escape(who)), exclusive_run(tmp_path, ALONE):
        pass
    process.kill()
    process.wait()
    with exclusive_run(tmp_path, ALONE):
        pass


def refused(_rank: int, _world_size: int, run_dir: str) -> str:
    from pipeline.engine import distributed

    run_lock.PATIENCE_S = 0.0
    try:
        with exclusive_run(Path(run_dir), distributed.init()):
            return "taken"
    except ConfigError as error:
        return error.message


def test_all_ranks_are_refused(tmp_path: Path) -> None:
    """No rank is left waiting for rank 0."""
    process = holder(tmp_path, seconds=600)
    errors = run_ranks(refused, 2, str(tmp_path), process_group=False)
    assert errors[0] == errors[1] and f"process {process.pid}" in errors[0]
    process.kill()
    process.wait()
    assert run_ranks(refused, 2, str(tmp_path), process_group=False) == ["taken"] * 2


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"), exclusive_run(tmp_path / "file" / "run", ALONE):
        pass
