"""`bash slurm/pretrain.sh` on a machine without Slurm: launching, signals, exit codes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def environment(**settings: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return {**clean, "PYTHON": sys.executable, **settings}


def start(project: Path, where: Path, *flags: str, **settings: str) -> subprocess.Popen[str]:
    words = ["bash", str(project / "slurm" / "pretrain.sh"), "recipes/toy.yaml", *flags]
    return subprocess.Popen(
        words,
        cwd=where,
        env=environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # where the tests run in the background SIGINT is ignored, and bash cannot trap what was ignored at its start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def latest(where: Path) -> str:
    path = where / "runs" / "toy" / "checkpoints" / "latest"
    return path.read_text() if path.exists() else "none"


def wait_for_a_step(where: Path, launch: subprocess.Popen[str], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while latest(where) == "none":
        assert launch.poll() is None and time.monotonic() < deadline, launch.communicate()[0]
        time.sleep(0.02)


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_a_run_ends_in_the_run_folder_of_its_recipe(project: Path, tmp_path: Path, ranks: str) -> None:
    """From any working folder: runs/RECIPE appears in the current folder, and the exit code is 0."""
    where = tmp_path / "elsewhere"
    (where / "pipeline").mkdir(parents=True)  # a folder of that name must not hide the project's package
    launch = start(project, where, "--steps", "3", NPROC=ranks)
    output, _ = launch.communicate(timeout=60)
    assert launch.returncode == 0, output
    assert latest(where) == "step_00000003"
    assert all(f"rank {rank} of {ranks} at step 0 recipe recipes/toy.yaml" in output for rank in range(int(ranks)))


@pytest.mark.parametrize(
    ("ranks", "number"),
    [("1", signal.SIGUSR1), ("1", signal.SIGTERM), ("1", signal.SIGINT), ("2", signal.SIGUSR1), ("2", signal.SIGINT)],
)
def test_a_signal_to_the_script_stops_all_ranks_and_gives_75(
    project: Path, tmp_path: Path, ranks: str, number: signal.Signals
) -> None:
    """Ranks that leave at different instants are not killed by their launcher; the same command resumes to the end."""
    launch = start(project, tmp_path, "--steps", "100000", NPROC=ranks)
    wait_for_a_step(tmp_path, launch)
    launch.send_signal(number)
    output, _ = launch.communicate(timeout=60)
    assert launch.returncode == 75, output
    done = int(latest(tmp_path).removeprefix("step_"))
    assert list((tmp_path / "runs" / "toy").glob("exits.*")) == []
    again = start(project, tmp_path, "--steps", str(done + 2), NPROC="1")
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0, output
    assert f"rank 0 of 1 at step {done} " in output


def test_usr1_while_starting_up_counts_as_stopped(project: Path, tmp_path: Path) -> None:
    """Python dies of a signal it has no handler for yet: nothing is lost, so it is 75 and not a crash."""
    launch = start(project, tmp_path, "--deaf", "1")
    assert launch.stdout is not None
    while "starting up" not in launch.stdout.readline():
        pass
    launch.send_signal(signal.SIGUSR1)
    launch.communicate(timeout=30)
    assert launch.returncode == 75


def test_a_crash_of_one_rank_ends_the_run_with_an_error(project: Path, tmp_path: Path) -> None:
    """The exit code is the crashed rank's, though the other was then stopped and saved; neither survives."""
    launch = start(project, tmp_path, "--steps", "100000", "--exit-rank", "1", "--exit-code", "3", NPROC="2")
    output, _ = launch.communicate(timeout=60)
    assert launch.returncode == 3, output
    alive = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout
    assert alive == ""


def test_a_mistake_of_the_user_keeps_its_exit_code(project: Path, tmp_path: Path) -> None:
    """Exit 2 from the trainer is exit 2 of the script, on one rank."""
    launch = start(project, tmp_path, "--exit-rank", "0", "--exit-code", "2")
    launch.communicate(timeout=60)
    assert launch.returncode == 2


def test_without_a_recipe_it_explains_what_to_type(project: Path, tmp_path: Path) -> None:
    """The error and the way out, nothing made."""
    done = subprocess.run(
        ["bash", str(project / "slurm" / "pretrain.sh")],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no recipe given\nhint: sbatch slurm/pretrain.sh RECIPE")
    assert not (tmp_path / "runs").exists()


def test_a_script_that_left_its_project_reports_it(project: Path, tmp_path: Path) -> None:
    """A copy of the script alone cannot find the code it is to run."""
    shutil.copytree(project / "slurm", tmp_path / "alone" / "slurm")
    words = ["bash", str(tmp_path / "alone" / "slurm" / "pretrain.sh"), "toy"]
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: the project is not beside" in done.stderr


def test_the_site_file_is_read_first(project: Path, tmp_path: Path) -> None:
    """slurm/site.sh may choose the interpreter."""
    (project / "slurm" / "site.sh").write_text("PYTHON=/no/such/python\n")
    launch = start(project, tmp_path, "--steps", "1")
    output, _ = launch.communicate(timeout=60)
    assert launch.returncode == 127
    assert "/no/such/python" in output


def test_the_run_folder_can_be_named_in_three_ways(project: Path, tmp_path: Path) -> None:
    """By the recipe, by RUN_DIR, by --run-dir, the last winning; checkpoints and the script's notes go together."""
    for flags, folder in (([], "from_environment"), (["--run-dir", "from_flag"], "from_flag")):
        launch = start(project, tmp_path, "--steps", "1", *flags, RUN_DIR="from_environment")
        launch.communicate(timeout=60)
        assert launch.returncode == 0
        assert {path.name for path in (tmp_path / folder).iterdir()} == {"checkpoints", "ends.log", "starts.log"}


def test_a_damaged_latest_is_a_word_in_the_record_of_starts(project: Path, tmp_path: Path) -> None:
    """`latest` of zero bytes and escape sequences, or a pipe in its place: the run starts, and its lines stay lines."""
    checkpoints = tmp_path / "runs" / "toy" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "latest").write_bytes(b"\x1b[2J\0step=\n7 x")
    first = start(project, tmp_path, "--steps", "1")
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 0, output
    (checkpoints / "latest").unlink()
    os.mkfifo(checkpoints / "latest")
    second = start(project, tmp_path, "--steps", "0")
    output, _ = second.communicate(timeout=60)
    lines = (tmp_path / "runs" / "toy" / "starts.log").read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["latest=2Jstep7x", "latest=none"], output


def test_a_record_of_ends_that_cannot_be_written_hides_no_exit_code(project: Path, tmp_path: Path) -> None:
    """/dev/full behind ends.log, as on a full disk: the code is the trainer's; behind starts.log nothing is started."""
    run_dir = tmp_path / "runs" / "toy"
    run_dir.mkdir(parents=True)
    (run_dir / "ends.log").symlink_to("/dev/full")
    launch = start(project, tmp_path, "--steps", "1")
    output, _ = launch.communicate(timeout=60)
    assert launch.returncode == 0 and "warning: runs/toy/ends.log cannot be written" in output
    (run_dir / "starts.log").unlink()
    (run_dir / "starts.log").symlink_to("/dev/full")
    launch = start(project, tmp_path, "--steps", "1")
    output, _ = launch.communicate(timeout=60)
    assert launch.returncode == 2 and "error: run folder runs/toy cannot be written" in output
    assert "at step" not in output
