"""`make gpu` without a GPU: parts that fail or hang cost the others nothing, and collecting needs little."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import BUDGET_S, Part, gpu_parts, rehearsal_parts, run_parts, table

ROOT = Path(__file__).resolve().parents[2]
NOT_THERE = ("moto", "flask", "aiohttp", "boto3", "s3fs", "img2dataset", "yt_dlp", "albumentations", "uv", "ruff")
"""What a GPU machine's image does not have."""


def test_a_failed_and_a_hung_part_cost_the_others_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real processes: one prints figures, one exits with 3, one hangs with a child of its own, one comes after."""
    pid = tmp_path / "pid"
    hang = f"sleep 600 & echo $! > '{pid}'; wait"
    parts = [
        Part(name="figures", words=[sys.executable, "-c", "print('note'); print('{\"ms\": 7}')"], limit_s=30),
        Part(name="fails", words=[sys.executable, "-c", "print('a reason'); raise SystemExit(3)"], limit_s=30),
        Part(name="hangs", words=["sh", "-c", hang], limit_s=0.5),  # three times that, as there is time
        Part(name="absent", words=[], limit_s=30, missing="no compute-sanitizer"),
        Part(name="comes after", words=[sys.executable, "-c", "print('done')"], limit_s=30),
    ]
    results = tmp_path / "results" / "figures.json"
    outcomes = run_parts(parts, tmp_path / "logs", results, budget_s=60)
    assert [outcome.result for outcome in outcomes] == [
        "ok",
        "failed: exit code 3",
        "failed: stopped after 1.5 s",
        "left out: no compute-sanitizer",
        "ok",
    ]
    assert outcomes[0].figures == {"ms": 7} and outcomes[1].tail == "a reason"
    deadline = time.monotonic() + 10  # a killed process is gone when its parent, or init, has read its exit code
    while is_running(int(pid.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(int(pid.read_text())), "the child of the hung part runs on"

    kept = json.loads(results.read_text())["parts"]
    assert [part["result"] for part in kept] == [outcome.result for outcome in outcomes]
    lines = table(outcomes).splitlines()
    assert len(lines) == len(parts) + 2 and lines[-1].endswith("2 failed")
    for line, part in zip(lines[1:], parts, strict=False):
        assert line.startswith(part.name)
    assert (tmp_path / "logs" / "fails.log").read_text() == "a reason\n"
    assert "a reason" in capsys.readouterr().out


def is_running(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_parts_without_time_left_are_named(tmp_path: Path) -> None:
    """The budget ends a part early, and what follows is in the table all the same."""
    parts = [
        Part(name="long", words=[sys.executable, "-c", "import time; time.sleep(600)"], limit_s=500),
        Part(name="late", words=[sys.executable, "-c", "pass"], limit_s=500),
    ]
    long, late = run_parts(parts, tmp_path, tmp_path / "figures.json", budget_s=1.5)
    assert long.result == "failed: stopped after 1.5 s"
    assert late.result == "not started: no time left" and late.failed


def test_a_part_may_use_what_others_left_and_no_more(tmp_path: Path) -> None:
    """Six seconds for three parts: the first leaves nearly all of its two, so the second may run for four; the third
    has its own second and a half all the same."""
    parts = [
        Part(name="quick", words=["true"], limit_s=2),
        Part(name="hangs", words=["sleep", "600"], limit_s=2),
        Part(name="last", words=["true"], limit_s=1.5),
    ]
    quick, hangs, last = run_parts(parts, tmp_path, tmp_path / "figures.json", budget_s=6)
    assert quick.result == last.result == "ok"
    assert hangs.result.startswith("failed: stopped after") and 3 < hangs.seconds < 5


def test_all_parts_fit_into_six_minutes() -> None:
    """Each has its limit even if all others need theirs."""
    assert sum(part.limit_s for part in gpu_parts()) <= BUDGET_S < 360


def test_a_rehearsal_has_the_parts_of_the_gpu() -> None:
    """The same names in the same order, and no word that asks for CUDA."""
    assert [part.name for part in rehearsal_parts()] == [part.name for part in gpu_parts()]
    assert not [part.name for part in rehearsal_parts() if "cuda" in part.words]


def test_no_gpu_is_an_error_with_the_way_out() -> None:
    """Nothing runs, and the hint names the rehearsal."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "error: torch sees no GPU\nhint: " in done.stderr and "make gpu REHEARSE=1" in done.stderr


def test_collecting_the_gpu_tests_needs_only_what_training_needs() -> None:
    """A GPU machine often has torch and little else: none of ingestion's tools, no server, no linter."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({NOT_THERE})); import pytest; "
        "sys.exit(pytest.main(['-m', 'gpu', '--collect-only', '-q', '-p', 'no:cacheprovider', 'tests/gpu']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "deselected" not in done.stdout, "a test of tests/gpu is not marked gpu"


def test_tests_that_need_a_gpu_live_in_one_folder() -> None:
    """A mark elsewhere would not be run by `make gpu`."""
    mark = "mark." + "gpu"
    marked = [path for path in (ROOT / "tests").rglob("*.py") if mark in path.read_text()]
    assert marked == [ROOT / "tests" / "gpu" / "conftest.py"]
