"""`sbatch slurm/pretrain.sh` under a real Slurm: ranks, stopping before the limit, requeueing and its end."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.slurm.local_slurm import LocalSlurm

OPTIONS = ("--ntasks-per-node=2", "--cpus-per-task=1", "--time=5", f"--export=ALL,PYTHON={sys.executable}")


def submit(slurm: LocalSlurm, project: Path, where: Path, *flags: str) -> int:
    return slurm.submit(*OPTIONS, project / "slurm" / "pretrain.sh", "recipes/toy.yaml", *flags, cwd=where)


def latest(where: Path) -> int:
    path = where / "runs" / "toy" / "checkpoints" / "latest"
    return int(path.read_text().removeprefix("step_")) if path.exists() else 0


def wait_for_step(where: Path, step: int, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while latest(where) < step:
        assert time.monotonic() < deadline, f"step {step} was not reached in {timeout_s:g} s"
        time.sleep(0.05)


def log(slurm: LocalSlurm, job_id: int) -> str:
    return Path(slurm.job(job_id)["StdOut"]).read_text()


def test_two_tasks_are_two_ranks_and_the_log_is_in_the_run_folder(
    slurm: LocalSlurm, project: Path, tmp_path: Path
) -> None:
    """Submitted from another folder than the project's, the script finds its code though Slurm runs a copy of it."""
    where = tmp_path / "elsewhere"
    where.mkdir()
    job = submit(slurm, project, where, "--steps", "3")
    assert slurm.wait_for(job, "COMPLETED", "FAILED")["ExitCode"] == "0:0", log(slurm, job)
    assert latest(where) == 3
    text = (where / "runs" / "toy" / f"slurm-{job}.out").read_text()
    assert all(f"rank {rank} of 2 at step " in text for rank in range(2)), text
    assert f":{20000 + job % 10000}" in text


def test_usr1_before_the_time_limit_saves_and_requeues_into_the_same_run_folder(
    slurm: LocalSlurm, project: Path, tmp_path: Path
) -> None:
    """The signal that Slurm sends to the job's steps: the second start goes on from the first one's step."""
    job = submit(slurm, project, tmp_path, "--steps", "60")
    wait_for_step(tmp_path, 3)
    slurm.command("scancel", "--signal=USR1", str(job))  # to the steps alone, as --signal=USR1@300 does
    fields = slurm.wait_for(job, "COMPLETED", "FAILED", "CANCELLED")
    text = log(slurm, job)
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1"), text
    assert latest(tmp_path) == 60
    starts = [int(line.split("step ")[1].split()[0]) for line in text.splitlines() if line.startswith("rank 0 of 2 at")]
    assert len(starts) == 2 and starts[0] == 0 and starts[1] >= 3
    assert f"requeued job {job} to go on from step_{starts[1]:08d}" in text


def test_requeueing_ends_when_two_starts_made_no_progress(slurm: LocalSlurm, project: Path, tmp_path: Path) -> None:
    """A run that is always stopped before its first step fails with the reason in its log."""
    job = submit(slurm, project, tmp_path, "--stuck", "1")
    fields = slurm.wait_for(job, "COMPLETED", "FAILED", "CANCELLED")
    text = log(slurm, job)
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("FAILED", "1:0", "1"), text
    assert "error: not requeued: the last 2 starts made no progress, the latest checkpoint is still none" in text
    assert len((tmp_path / "runs" / "toy" / "starts.log").read_text().splitlines()) == 2


def test_scancel_saves_and_does_not_requeue(slurm: LocalSlurm, project: Path, tmp_path: Path) -> None:
    """A cancelled job stays cancelled: the ranks save on SIGTERM, and nothing starts again."""
    job = submit(slurm, project, tmp_path, "--steps", "100000")
    wait_for_step(tmp_path, 3)
    slurm.command("scancel", str(job))
    while slurm.command("squeue", "-h", "-t", "R,CG", "-j", str(job), check=False).strip():
        time.sleep(0.2)
    fields = slurm.job(job)
    assert (fields["JobState"], fields["Restarts"]) == ("CANCELLED", "0"), log(slurm, job)
    done = latest(tmp_path)
    time.sleep(2.0)
    assert slurm.job(job)["JobState"] == "CANCELLED" and latest(tmp_path) == done


def test_a_stop_file_stops_for_good(slurm: LocalSlurm, project: Path, tmp_path: Path) -> None:
    """Whoever stopped the run by hand does not find it running again."""
    job = submit(slurm, project, tmp_path, "--steps", "100000")
    wait_for_step(tmp_path, 3)
    (tmp_path / "runs" / "toy" / "stop").touch()
    slurm.command("scancel", "--signal=USR1", str(job))
    fields = slurm.wait_for(job, "COMPLETED", "FAILED", "CANCELLED")
    assert (fields["ExitCode"], fields["Restarts"]) == ("75:0", "0"), log(slurm, job)
    assert "not requeued: stopped by hand" in log(slurm, job)


def test_a_crash_of_one_rank_fails_the_job_at_once(slurm: LocalSlurm, project: Path, tmp_path: Path) -> None:
    """The job's exit code is the rank's, and the other rank is not waited for."""
    job = submit(slurm, project, tmp_path, "--steps", "100000", "--exit-rank", "1", "--exit-code", "3")
    fields = slurm.wait_for(job, "COMPLETED", "FAILED", "CANCELLED", timeout_s=30)
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("FAILED", "3:0", "0"), log(slurm, job)
