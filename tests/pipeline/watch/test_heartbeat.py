"""Ranks that die, fall silent or get stuck in a real training run: who is named, who leaves, what is left over."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.job_processes import is_trainer, processes_with
from tests.support.ranks import run_ranks
from tests.support.tiny_run import tiny_recipe
from tests.support.wrapped_task import WrappedTask, pretrain_with

ROOT = Path(__file__).resolve().parents[3]
LOST = 69
HANG_S = 20
"""Much longer than a step or a start of these runs takes on a busy machine."""


def faulty_run(rank: int, _world: int, recipe: str, folder: str, kind: str, culprit: int) -> int:
    """A training run in which rank `culprit` goes wrong in its fourth step; what a rank prints goes to FOLDER/R.txt."""
    output = os.open(f"{folder}/{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 2)
    from pipeline.run import logs

    Path(folder, f"pid_{rank}").write_text(str(os.getpid()))
    sys.stderr = os.fdopen(2, "w", closefd=False)
    logs.setup_console(rank)

    def before(_task: Any, _engine: Any, step: int) -> None:
        if step == 3 and rank == culprit:
            go_wrong(kind, Path(folder))

    wrap = partial(WrappedTask, before=before)
    return pretrain_with(wrap, recipe, Path(folder) / "run", [f"--watch.hang_s={HANG_S}"])


def go_wrong(kind: str, folder: Path) -> None:
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "stuck":
        time.sleep(1000)
    if kind == "suspended":
        pids = " ".join((folder / f"pid_{rank}").read_text() for rank in (0, 1))
        subprocess.Popen(["sh", "-c", f"kill -STOP {pids}; sleep {HANG_S + 10}; kill -CONT {pids}"])
        time.sleep(2.0)  # the suspension falls into this
    if kind == "error":
        from albef.errors import DataError

        raise DataError("the mount is gone", "mount it")


def exit_codes(tmp_path: Path, kind: str, culprit: int) -> dict[int, int]:
    """Run it on two ranks; returns the exit code of each."""
    folder = tmp_path / f"{kind}_{culprit}"
    folder.mkdir()
    recipe = str(tiny_recipe(tmp_path))
    try:
        codes = run_ranks(faulty_run, 2, recipe, str(folder), kind, culprit, process_group=False, timeout_s=400)
    except RuntimeError as ended:
        found = re.findall(r"rank (\d) of 2 (?:ended with exit code (-?\d+)|raised)", str(ended))
        return {int(rank): int(code or 1) for rank, code in found}
    return dict(enumerate(codes))


@pytest.mark.timeout(900)
def test_who_dies_falls_silent_or_is_stuck_is_named_and_all_leave(tmp_path: Path) -> None:
    """Either of two ranks is killed, stopped, asleep in Python, or ends with an error.

    The other reports it in one line, with the last step and without a traceback, and ends with 69; a stopped process,
    which cannot end by itself, is killed; one that is stuck shows where. A job that is suspended as a whole for longer
    than watch.hang_s continues, and no rank is blamed.
    """
    tiny_recipe(tmp_path)
    faults = [("killed", 0), ("killed", 1), ("stopped", 0), ("stopped", 1), ("stuck", 1), ("error", 0)]
    cases = [*faults, ("suspended", 1)]
    with ThreadPoolExecutor(len(cases)) as several:  # they mostly wait
        ended = dict(zip(cases, several.map(lambda case: exit_codes(tmp_path, *case), cases), strict=True))
    assert ended.pop(("suspended", 1)) == {0: 0, 1: 0}
    of_culprit = {"killed": -signal.SIGKILL, "stopped": -signal.SIGKILL, "stuck": LOST, "error": 1}
    words = {
        "killed": r"is gone \(last step 3[^)]*\): it ended without an error",
        "stopped": r"has been silent for \d+ s \(last step 3[^)]*\)",
        "stuck": r"has been stuck for more than 20 s \(last step 3[^)]*\)",
        "error": r"has left \(last step 3[^)]*\): DataError: the mount is gone \(hint: mount it\)",
    }
    for (kind, culprit), codes in ended.items():
        other = 1 - culprit
        where = f"rank {culprit} {kind}: "
        output = {rank: (tmp_path / f"{kind}_{culprit}" / f"{rank}.txt").read_text() for rank in (0, 1)}
        assert codes == {culprit: of_culprit[kind], other: LOST}, f"{where}{codes}\n{output[0]}\n{output[1]}"
        reporter = 0 if kind == "stuck" else other  # rank 0 reports, if it can
        front = "" if reporter == 0 else r"\[rank 1\] "
        pattern = rf"^{front}error: rank {culprit} on \S+ {words[kind]}"
        assert len(re.findall(pattern, output[reporter], re.MULTILINE)) == 1, f"{where}{output[reporter]}"
        assert re.search(rf"^{front}hint: .*the same command resumes", output[reporter], re.MULTILINE), output[reporter]
        assert "Traceback" not in output[other], f"{where}{output[other]}"
        log = (tmp_path / f"{kind}_{culprit}" / "run" / "logs" / "local" / f"rank_{culprit}.log").read_text()
        assert ("time.sleep(1000)" in log) == (kind == "stuck"), f"{where}{log}"
        killed = (tmp_path / f"{kind}_{culprit}" / "run" / "logs" / "local" / f"rank_{other}.log").read_text()
        assert (f"killed rank {culprit}" in killed) == (kind == "stopped"), f"{where}{killed}"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_rank_takes_the_whole_job_down(tmp_path: Path) -> None:
    """kill -9 of rank 0, which others meet at, under torchrun with loader workers: 69, one line, no process left."""
    tiny_recipe(tmp_path, max_steps=100_000, data={"manifests": [str(tmp_path / "shards")], "num_workers": 1})
    mark = f"TEST_MARK={uuid.uuid4()}"
    name, _, value = mark.partition("=")
    settings = os.environ | {"PYTHON": sys.executable, "NPROC": "2", "DS_ACCELERATOR": "cpu", name: value}
    words = ["bash", str(ROOT / "slurm" / "pretrain.sh"), "tiny.yaml", "--run-dir", "here"]
    job = subprocess.Popen(words, cwd=tmp_path, env=settings, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    metrics = tmp_path / "here" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert job.poll() is None and time.monotonic() < deadline, job.communicate()
        time.sleep(0.05)
    ranks = {rank: pid for pid, env in processes_with(mark) if (rank := env.get("RANK")) and is_trainer(pid)}
    assert sorted(ranks) == ["0", "1"], ranks
    os.kill(ranks["0"], signal.SIGKILL)
    out, err = job.communicate(timeout=120)
    assert job.returncode in (LOST, 137), (
        f"{job.returncode}\n{out}\n{err}"
    )  # 137: that of the killed one, if it was first
    assert len(re.findall(r"^\[rank 1\] error: rank 0 on \S+ is gone \(last step \d+", err, re.MULTILINE)) == 1, err
    deadline = time.monotonic() + 60
    while left := [pid for pid, _ in processes_with(mark)]:  # the kernel takes a moment with the last of them
        assert time.monotonic() < deadline, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
        time.sleep(0.1)
