"""`sbatch slurm/pretrain.sh` under a real Slurm: ranks, stopping before the limit, requeueing and its end."""

from __future__ import annotations

import re
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.slurm.conftest import make_project
from tests.slurm.local_slurm import LocalSlurm

OPTIONS = ("--ntasks-per-node=2", "--cpus-per-task=1", "--time=30", f"--export=ALL,PYTHON={sys.executable}")
TWO_NODES = ("--nodes=2", "--ntasks-per-node=1")


def submit(slurm: LocalSlurm, project: Path, where: Path, *flags: str, options: tuple[str, ...] = ()) -> int:
    script = project / "slurm" / "pretrain.sh"
    return slurm.submit(*OPTIONS, *options, script, "recipes/toy.yaml", *flags, cwd=where)


def latest(where: Path) -> int:
    path = where / "runs" / "toy" / "checkpoints" / "latest"
    return int(path.read_text().removeprefix("step_")) if path.exists() else 0


def wait_for_step(where: Path, step: int, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while latest(where) < step:
        assert time.monotonic() < deadline, f"step {step} was not reached in {timeout_s:g} s"
        time.sleep(0.05)


def starting_steps(text: str) -> list[int]:
    """The step at which rank 0 of two began, of every start in the log."""
    return [int(line.split("step ")[1].split()[0]) for line in text.splitlines() if line.startswith("rank 0 of 2 at")]


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


def test_a_port_that_is_taken_is_passed_over(slurm: LocalSlurm, project: Path, tmp_path: Path) -> None:
    """Somebody listens at the port that follows from the job's number: the ranks meet at another."""
    job = submit(slurm, project, tmp_path, "--steps", "3", options=("--hold",))
    taken = 20000 + job % 10000
    with socket.socket() as somebody:
        somebody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        somebody.bind(("", taken))
        somebody.listen()
        slurm.command("scontrol", "release", str(job))
        assert slurm.wait_for(job, "COMPLETED", "FAILED")["ExitCode"] == "0:0", log(slurm, job)
    met = re.search(r"meeting at \S+:(\d+)", log(slurm, job))
    assert met is not None and taken < int(met[1]) < taken + 100


def test_usr1_before_the_time_limit_saves_and_requeues_into_the_same_run_folder(
    slurm: LocalSlurm, project: Path, tmp_path: Path
) -> None:
    """The signal that Slurm sends to the job's steps: the second start resumes from the first one's step."""
    job = submit(slurm, project, tmp_path, "--steps", "60")
    wait_for_step(tmp_path, 3)
    slurm.command("scancel", "--signal=USR1", str(job))  # to the steps alone, as --signal=USR1@300 does
    fields = slurm.wait_for(job, "COMPLETED", "FAILED", "CANCELLED")
    text = log(slurm, job)
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1"), text
    assert latest(tmp_path) == 60
    starts = starting_steps(text)
    assert len(starts) == 2 and starts[0] == 0 and starts[1] >= 3
    assert f"requeued job {job} to resume from step_{starts[1]:08d}" in text


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
    """A run that was stopped by hand does not start again by itself."""
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


def test_a_lost_rank_requeues_the_job(slurm: LocalSlurm, project: Path, tmp_path: Path) -> None:
    """Exit code 69, which ranks leave with when another is gone: Slurm may not know yet that its node is."""
    flags = ("--steps", "20", "--exit-rank", "1", "--exit-code", "69", "--exit-once", "1")
    job = submit(slurm, project, tmp_path, *flags)
    fields = slurm.wait_for(job, "COMPLETED", "FAILED", "CANCELLED")
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1"), log(slurm, job)
    assert " start=1 code=69 " in (tmp_path / "runs" / "toy" / "ends.log").read_text()
    assert latest(tmp_path) == 20


@pytest.fixture(scope="module", autouse=True)
def near_its_limit(slurm: LocalSlurm, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """A job of five minutes whose USR1 is due at once; it waits for Slurm's next sweep beside the tests above."""
    where = tmp_path_factory.mktemp("near_its_limit")
    flags = ("--steps", "20", "--endless-first", "1")
    return submit(slurm, make_project(where / "project"), where, *flags, options=("--time=5",)), where


def test_slurm_itself_sends_usr1_before_the_time_limit(slurm: LocalSlurm, near_its_limit: tuple[int, Path]) -> None:
    """With --time=5 the script's own --signal=USR1@300 is due at the start: saved, requeued, resumed, ended."""
    job, where = near_its_limit
    fields = slurm.wait_for(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", timeout_s=240)
    text = log(slurm, job)
    starts = starting_steps(text)
    assert fields["JobState"] == "COMPLETED" and int(fields["Restarts"]) >= 1, text
    assert len(starts) == int(fields["Restarts"]) + 1 and starts == sorted(set(starts))
    assert f"requeued job {job} to resume from step_{starts[1]:08d}" in text
    assert latest(where) == starts[-1] + 20


def test_two_nodes_resume_after_scontrol_requeue_and_after_one_of_them_is_taken_down(
    slurm: LocalSlurm, project: Path, tmp_path: Path
) -> None:
    """One rank a node; both times Slurm ends the job by itself, and it resumes where it was saved."""
    job = submit(slurm, project, tmp_path, "--steps", "100", options=TWO_NODES)
    wait_for_step(tmp_path, 3)
    slurm.command("scontrol", "requeue", str(job))
    slurm.wait_for(job, "PENDING")
    requeued_at = latest(tmp_path)
    wait_for_step(tmp_path, requeued_at + 5)
    slurm.command("scontrol", "update", "nodename=node2", "state=down", "reason=test")
    assert slurm.wait_for(job, "PENDING")["Restarts"] == "2"
    slurm.wait_for_node("node2")
    fields = slurm.wait_for(job, "COMPLETED", "FAILED", "CANCELLED", timeout_s=120)
    text = log(slurm, job)
    assert (fields["JobState"], fields["Restarts"], latest(tmp_path)) == ("COMPLETED", "2", 100), text
    starts = starting_steps(text)
    assert starts[0] == 0 and 3 <= starts[1] <= requeued_at < starts[2]
    assert "NODES node[1-2] x 1 tasks, meeting at " in text
    assert text.count("Slurm requeues the job by itself, to resume from") >= 1


def test_a_job_whose_node_dies_resumes_on_another(slurm: LocalSlurm, project: Path, tmp_path: Path) -> None:
    """The node is gone with the script and its ranks, by SIGKILL, and then declared down; nobody could save."""
    job = submit(slurm, project, tmp_path, "--steps", "60")
    wait_for_step(tmp_path, 3)
    node = slurm.job(job)["NodeList"]
    slurm.pull_the_plug(int(node.removeprefix("node")))
    reached = latest(tmp_path)
    slurm.command("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    fields = slurm.wait_for(job, "COMPLETED", "FAILED", "CANCELLED", timeout_s=120)
    slurm.plug_in(int(node.removeprefix("node")))
    text = log(slurm, job)
    assert (fields["JobState"], fields["Restarts"], latest(tmp_path)) == ("COMPLETED", "1", 60), text
    assert fields["NodeList"] == {"node1": "node2", "node2": "node1"}[node]
    assert starting_steps(text) == [0, reached]
    assert len((tmp_path / "runs" / "toy" / "starts.log").read_text().splitlines()) == 2
    assert [" start=2 code=0 " in end for end in (tmp_path / "runs" / "toy" / "ends.log").open()] == [True]
