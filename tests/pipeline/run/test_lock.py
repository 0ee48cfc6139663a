"""The same run started twice: the second start is refused, and the first is not disturbed."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from albef.errors import ConfigError
from pipeline.engine.distributed import World
from pipeline.run import lock as run_lock
from pipeline.run.lock import exclusive_run
from tests.support.ranks import Ranks, run_ranks
from tests.support.tiny_run import tiny_recipe

ROOT = Path(__file__).parents[3]
ALONE = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(autouse=True)
def _no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests may run in a Slurm job."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def hold(_rank: int, _world_size: int, run_dir: str, held: str, seconds: float, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with exclusive_run(Path(run_dir), ALONE):
        Path(held).touch()
        time.sleep(seconds)


@contextmanager
def holder(tmp_path: Path, run_dir: Path, seconds: float = 600, **environment: str) -> Iterator[Any]:
    """Another process, which holds the folder for this long or until the context is left."""
    held = tmp_path / "held"
    with Ranks(hold, 1, str(run_dir), str(held), seconds, environment, process_group=False) as ranks:
        (process,) = ranks.processes
        while not held.exists():
            assert process.is_alive()
            time.sleep(0.01)
        yield process


def test_a_second_start_in_the_same_folder_is_refused_and_the_first_continues(tmp_path: Path) -> None:
    """Exit code 2, an error that names the process, nothing written; the first trains, and is stopped in the end."""
    recipe, run_dir = tiny_recipe(tmp_path), tmp_path / "run"
    words = [sys.executable, "-m", "pipeline", "pretrain", str(recipe), "--run-dir", str(run_dir)]
    settings = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    forever = ["--max_steps=1000000", "--checkpoint.save_every=5"]
    first = subprocess.Popen([*words, *forever], cwd=ROOT, env=settings, stdout=subprocess.DEVNULL)

    def wait_for(path: Path) -> None:
        deadline = time.monotonic() + 120
        while not path.exists():
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)

    wait_for(run_dir / "env.json")
    before = (run_dir / "env.json").read_bytes()
    second = subprocess.run([*words, *forever], cwd=ROOT, env=settings, capture_output=True, text=True, timeout=200)
    assert second.returncode == 2
    who = f"process {first.pid} on {platform.node()}"
    assert f"error: another run is training in {run_dir}: {who}\nhint: wait for its end" in second.stderr
    assert (run_dir / "env.json").read_bytes() == before
    wait_for(run_dir / "checkpoints" / "latest")
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=120) == 75


def test_a_start_waits_for_the_one_before_it(tmp_path: Path) -> None:
    """It is about to end, which may take as long as a save."""
    run_dir = tmp_path / "run"
    with holder(tmp_path, run_dir, seconds=1.5) as process, exclusive_run(run_dir, ALONE):
        process.join(timeout=10)
        assert process.exitcode == 0
        assert (tmp_path / "run" / "lock").read_text() == f"process {os.getpid()} on {platform.node()}\n"


def test_what_was_killed_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "PATIENCE_S", 0.0)
    with holder(tmp_path, tmp_path, SLURM_JOB_ID="4711") as process:
        who = f"another run is training in {tmp_path}: process {process.pid} on {platform.node()}, Slurm job 4711"
        with pytest.raises(ConfigError, match=re.escape(who)), exclusive_run(tmp_path, ALONE):
            pass
        process.kill()
        process.join()
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
    with holder(tmp_path, tmp_path) as process:
        errors = run_ranks(refused, 2, str(tmp_path), process_group=False)
        assert errors[0] == errors[1] and f"process {process.pid}" in errors[0]
    assert run_ranks(refused, 2, str(tmp_path), process_group=False) == ["taken"] * 2


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"), exclusive_run(tmp_path / "file" / "run", ALONE):
        pass
