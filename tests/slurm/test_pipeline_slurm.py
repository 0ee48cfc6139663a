"""Job arrays and the chain of all stages under a real Slurm, with stubs for the work."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from tests.slurm.local_slurm import LocalSlurm

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
SMALL = "--cpus-per-task=1"
SETTINGS = {
    "PYTHON": sys.executable,
    "URLS": "web.tsv",
    "EVALUATE_FLAGS": "--data somewhere",
    "PARTS": "3",
    **{f"{stage}_SBATCH": SMALL for stage in ("DOWNLOAD", "VERIFY", "EXPORT", "EVALUATE")},
    "PRETRAIN_SBATCH": f"{SMALL} --ntasks-per-node=2 --time=30",
}


def submit_chain(slurm: LocalSlurm, project: Path, where: Path, *words: str, **settings: str) -> dict[str, int]:
    """slurm/pipeline.sh from `where`; returns the job of each stage, after a look at who waits for whom."""
    (where / "web.tsv").touch()
    script = str(project / "slurm" / "pipeline.sh")
    output = slurm.command("bash", script, *words, cwd=where, settings={**SETTINGS, **settings})
    found = re.findall(r"^(\w+) (\d+)(?: after (\d+))?$", output, re.MULTILINE)
    assert len(found) == len(output.splitlines()), output
    assert [before for _, _, before in found] == ["", *(job for _, job, _ in found[:-1])]
    return {stage: int(job) for stage, job, _ in found}


def log(where: Path, job: str) -> str:
    return (where / f"slurm-{job}.out").read_text()


def moment(fields: dict[str, str], name: str) -> datetime:
    return datetime.fromisoformat(fields[name])


def test_the_chain_runs_in_its_order_though_its_pretraining_is_requeued(
    slurm: LocalSlurm, project: Path, tmp_path: Path
) -> None:
    """Five stages, the first an array of three; each begins when the one before has ended, not when it is requeued."""
    jobs = submit_chain(slurm, project, tmp_path, "toy", "--steps", "60")
    assert list(jobs) == ["download", "verify", "pretrain", "export", "evaluate"]
    latest = tmp_path / "runs" / "toy" / "checkpoints" / "latest"
    deadline = time.monotonic() + 60
    while not latest.exists():
        assert time.monotonic() < deadline, slurm.command("squeue")
        time.sleep(0.05)
    slurm.command("scancel", "--signal=USR1", str(jobs["pretrain"]))
    slurm.wait_for(jobs["evaluate"], *ENDED, timeout_s=120)
    tasks = [slurm.job(f"{jobs['download']}_{number}") for number in (1, 2, 3)]
    stages = [*tasks, *(slurm.job(jobs[stage]) for stage in list(jobs)[1:])]
    assert [(stage["JobState"], stage["ExitCode"]) for stage in stages] == [("COMPLETED", "0:0")] * 7
    assert [stage["Restarts"] for stage in stages] == ["0", "0", "0", "0", "1", "0", "0"]
    ends = [max(moment(task, "EndTime") for task in tasks), *(moment(stage, "EndTime") for stage in stages[3:])]
    assert all(end <= moment(stage, "StartTime") for end, stage in zip(ends, stages[3:], strict=False))
    for number in (1, 2, 3):
        assert f"data_prep download --part {number}/3 --processes 1 --urls web.tsv --out data/web" in log(
            tmp_path, f"{jobs['download']}_{number}"
        )
    assert "data_prep verify --processes 1 data/web" in log(tmp_path, str(jobs["verify"]))
    assert latest.read_text() == "step_00000060"
    assert "evaluate rank 0 ['--model', 'models/toy', " in log(tmp_path, str(jobs["evaluate"]))


def test_a_failed_part_cancels_all_that_waits(slurm: LocalSlurm, project: Path, tmp_path: Path) -> None:
    """Nothing stays in the queue for ever, and nothing trains on half of the data."""
    flags = "--exit-part 2/3 --exit-code 1"
    jobs = submit_chain(slurm, project, tmp_path, "toy", "--steps", "3", DOWNLOAD_FLAGS=flags)
    assert slurm.wait_for(jobs["evaluate"], *ENDED)["JobState"] == "CANCELLED"
    assert [slurm.job(jobs[stage])["JobState"] for stage in ("verify", "pretrain", "export")] == ["CANCELLED"] * 3
    states = [slurm.job(f"{jobs['download']}_{number}")["JobState"] for number in (1, 2, 3)]
    assert states == ["COMPLETED", "FAILED", "COMPLETED"]
    assert not (tmp_path / "runs" / "toy").exists()


def test_a_stage_that_sbatch_refuses_takes_back_those_before_it(
    slurm: LocalSlurm, project: Path, tmp_path: Path
) -> None:
    """A partition that does not exist: error, hint, and no job left waiting."""
    (tmp_path / "web.tsv").touch()
    settings = {**slurm.environment, **SETTINGS, "EXPORT_SBATCH": "--partition=nowhere", "DOWNLOAD_SBATCH": "--hold"}
    words = ["bash", str(project / "slurm" / "pipeline.sh"), "toy", "--steps", "3"]
    done = subprocess.run(words, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "error: sbatch refused stage export; the stages before it are cancelled again" in done.stderr
    jobs = re.findall(r"^\w+ (\d+)", done.stdout, re.MULTILINE)
    assert len(jobs) == 3
    for job in jobs:
        slurm.wait_for(job, "CANCELLED")


def test_an_array_without_all_its_tasks_must_say_how_many_parts_there_are(
    slurm: LocalSlurm, project: Path, tmp_path: Path
) -> None:
    """Tasks 2 and 4 of five parts, run again: with PARTS they are these parts, without it nothing is guessed."""
    words = ("--array=2,4", SMALL, project / "slurm" / "download.sh", "--urls", "web.tsv", "--out", "data")
    guess = slurm.submit(*words, cwd=tmp_path, PYTHON=sys.executable)
    submitted = slurm.submit(*words, cwd=tmp_path, PYTHON=sys.executable, PARTS="5")
    for number in (2, 4):
        assert slurm.wait_for(f"{guess}_{number}", *ENDED)["ExitCode"] == "2:0"
        assert slurm.wait_for(f"{submitted}_{number}", *ENDED)["ExitCode"] == "0:0"
        assert f"data_prep download --part {number}/5 " in log(tmp_path, f"{submitted}_{number}")
    text = log(tmp_path, f"{guess}_2")
    assert "error: the array has 2 tasks from 2 to 4, of how many parts?\nhint: number the tasks --array=1-N" in text
