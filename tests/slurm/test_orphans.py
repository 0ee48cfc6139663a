"""What starts the ranks is killed with -9: no rank survives, and a run that a person started by hand is no orphan."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm.local_slurm import LocalSlurm
from tests.support.data_prep_runs import wait_for
from tests.support.job_processes import family

ROOT = Path(__file__).resolve().parents[2]
RANK = """
import os, sys, time
from pathlib import Path
from pipeline.watch import launcher
launcher.watch()
Path(sys.argv[1], str(os.getpid())).touch()
time.sleep(1000)
"""
INTERPRETER = """#!/usr/bin/env bash
case $1 in -P) exec {python} -c "$(< {rank})" {folder} ;; *) exec {python} "$@" ;; esac
"""
"""In the place of Python: a rank that looks after its launchers and does nothing else, without seconds of imports."""


def interpreter(tmp_path: Path) -> Path:
    """The stand-in; each rank leaves its process number in the folder `ranks`."""
    (tmp_path / "ranks").mkdir()
    (tmp_path / "rank.py").write_text(RANK)
    path = tmp_path / "python"
    path.write_text(
        INTERPRETER.format(python=sys.executable, rank=tmp_path / "rank.py", folder=tmp_path / "ranks"),
    )
    path.chmod(0o755)
    return path


def ranks(tmp_path: Path, count: int) -> list[int]:
    """The process numbers of all ranks, once they watch."""
    folder = tmp_path / "ranks"
    wait_for(lambda: len(list(folder.iterdir())) == count, f"{count} ranks", 60)
    return [int(path.name) for path in folder.iterdir()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def environment(**settings: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return clean | {"PYTHONPATH": str(ROOT)} | settings


@pytest.mark.parametrize(
    ("script", "num_ranks", "victim", "code"),
    [
        ("pretrain", 1, "script", -signal.SIGKILL),
        ("pretrain", 2, "script", -signal.SIGKILL),
        ("pretrain", 2, "torchrun", 69),
        ("pretrain", 1, "shell around the rank", 137),
        ("evaluate", 1, "script", -signal.SIGKILL),
    ],
)
def test_ranks_leave_when_what_started_them_is_killed(
    tmp_path: Path, script: str, num_ranks: int, victim: str, code: int
) -> None:
    """The script itself, torchrun alone, or the shell around a rank: the ranks end within seconds, with 69."""
    words = ["bash", str(ROOT / "slurm" / f"{script}.sh"), "tiny", "--out", str(tmp_path / "out" / "m.json")]
    settings = environment(PYTHON=str(interpreter(tmp_path)), NPROC=str(num_ranks))
    with open(tmp_path / "log", "w") as log:
        job = subprocess.Popen(words, cwd=tmp_path, env=settings, stdout=log, stderr=log, start_new_session=True)
    pids = ranks(tmp_path, num_ranks)
    words_of = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in family(job.pid)}
    victims = {
        "script": [job.pid],
        "torchrun": [pid for pid, line in words_of.items() if line[1:3] == [b"-m", b"torch.distributed.run"]],
        "shell around the rank": [pid for pid, line in words_of.items() if line[:2] == [b"bash", b"-c"]],
    }[victim]
    assert len(victims) == 1, words_of
    os.kill(victims[0], signal.SIGKILL)
    wait_for(lambda: not any(map(alive, pids)), "the end of all ranks", 20)
    assert job.wait(timeout=30) == code, (tmp_path / "log").read_text()
    said = (tmp_path / "log").read_text()
    assert said.count("error: the launcher of this rank is gone: process") == 1, said
    assert "hint: the same command resumes from the last checkpoint" in said


def test_a_rank_of_a_torchrun_of_ones_own_leaves_too(tmp_path: Path) -> None:
    """Without our script, and with a shell of the user's between torchrun and the rank."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "--no-python"]
    words += ["bash", "-c", '"$0" -P -m pipeline; true', str(interpreter(tmp_path))]
    torchrun = subprocess.Popen(words, env=environment(), stderr=subprocess.DEVNULL, start_new_session=True)
    (pid,) = ranks(tmp_path, 1)
    torchrun.kill()
    torchrun.wait()
    wait_for(lambda: not alive(pid), "the end of the rank", 20)


def test_a_run_started_by_hand_outlives_its_shell(tmp_path: Path) -> None:
    """`python -m pipeline pretrain ... &` and the shell ends: nobody's launcher."""
    words = ["bash", "-c", f"{interpreter(tmp_path)} -P -m pipeline < /dev/null > /dev/null 2>&1 &"]
    subprocess.run(words, env=environment(), check=True)
    (pid,) = ranks(tmp_path, 1)
    time.sleep(3.0)
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)


def test_a_rank_leaves_when_slurms_step_is_killed(slurm: LocalSlurm, tmp_path: Path) -> None:
    """kill -9 of the slurmstepd that srun's task hangs on, as a node short of memory does it."""
    python = interpreter(tmp_path)
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/bash\nsrun --ntasks=1 bash -c '{python} -P -m pipeline; true'\n")
    job = slurm.submit("--ntasks=1", script, cwd=tmp_path, PYTHONPATH=str(ROOT))
    (pid,) = ranks(tmp_path, 1)
    step = pid
    while Path(f"/proc/{step}/comm").read_text().strip() != "slurmstepd":
        step = int(Path(f"/proc/{step}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(step, signal.SIGKILL)
    wait_for(lambda: not alive(pid), "the end of the rank", 20)
    slurm.command("scancel", str(job))
