"""`pipeline status`: what is true of a run's folder, whole, damaged or just started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from pipeline.watch.status import describe, read_status
from tests.support.checkpoints import published
from tests.support.training_runs import run as train_to_the_end

ROOT = Path(__file__).resolve().parents[3]
NOON = 1_795_348_800.0  # 2026-11-22T12:00:00Z


def made(
    folder: Path,
    *,
    starts: str = "",
    ends: str = "",
    metrics: str = "",
    config: str = "name: made\nepochs: 3\nmax_steps: null\n",
    checkpoint: int | None = None,
) -> Path:
    """A run folder with these files; the checkpoint has one file of ten bytes."""
    run_dir = folder / "runs" / "made"
    run_dir.mkdir(parents=True)
    for name, text in {"starts.log": starts, "ends.log": ends, "metrics.jsonl": metrics, "config.yaml": config}.items():
        if text:
            (run_dir / name).write_text(text)
    if checkpoint is not None:
        published(run_dir / "checkpoints", checkpoint, content=b"0123456789", created="2026-11-22T11:59:00+00:00")
    return run_dir


def line(step: int, at: float, **values: Any) -> str:
    """A line of metrics.jsonl as training writes it: 100 steps in all, half a second each."""
    scalars = {"train/loss": 9.0, "train/loss_itc": 5.0, "speed/step_s": 0.5, "speed/samples_per_s": 16.0}
    row = {"step": step, "total_steps": 100, "time": at, **scalars, "data/epoch": step // 40, **values}
    return json.dumps(row) + "\n"


def start(at: str, job: str = "7", restart: int = 0) -> str:
    return f"2026-11-22T{at}Z job={job} restart={restart} latest=none\n"


def end(at: str, number: int, code: int) -> str:
    return f"2026-11-22T{at}Z job=7 start={number} code={code} latest=none\n"


def test_a_real_run_that_has_ended(tmp_path: Path) -> None:
    """Ten steps of eight pairs out of 48: finished, in the second epoch; and torch was not imported."""
    run_dir = train_to_the_end(tmp_path, "real").parents[1]
    code = (
        "import sys; from pipeline.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'deepspeed', 'numpy'} & set(sys.modules); sys.exit(str(heavy) if heavy else code)"
    )
    words = [sys.executable, "-c", code, "status", str(run_dir), "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert (status["stage"], status["step"], status["total_steps"], status["left_s"]) == ("finished", 10, 10, 0)
    assert (status["epoch"], status["epochs"], status["name"]) == (2, None, "tiny")
    last = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    assert status["losses"]["loss"] == last["train/loss"] and len(status["losses"]) == 4
    assert status["samples_per_s"] == last["speed/samples_per_s"]
    assert (status["checkpoint"]["name"], status["checkpoint"]["whole"]) == ("step_00000010", True)
    assert (status["starts"], status["requeues"], status["silent_s"]) == (1, 0, None)


@pytest.mark.parametrize(
    ("files", "stage"),
    [
        ({"starts": start("11:00:00"), "config": ""}, "starting"),
        ({"starts": start("11:00:00"), "metrics": line(40, NOON)}, "training"),
        ({"starts": start("11:00:00") + start("12:00:01", restart=1), "metrics": line(40, NOON)}, "starting"),
        ({"starts": start("11:00:00"), "ends": end("11:30:00", 1, 75), "metrics": line(40, NOON)}, "stopped"),
        (
            {
                "starts": start("11:00:00") + start("11:59:00"),
                "ends": end("11:30:00", 1, 75),
                "metrics": line(40, NOON),
            },
            "training",
        ),
        ({"starts": start("11:00:00"), "ends": end("11:30:00", 1, 1)}, "failed"),
        ({"starts": start("11:00:00"), "ends": end("11:30:00", 1, 0), "checkpoint": 100}, "finished"),
        ({"metrics": line(100, NOON), "checkpoint": 100}, "finished"),
        ({"metrics": line(100, NOON), "checkpoint": 80}, "training"),
        ({"starts": start("11:00:00"), "ends": end("11:30:00", 1, 1), "metrics": line(100, NOON)}, "failed"),
    ],
)
def test_the_stage_is_what_the_files_prove(tmp_path: Path, files: dict[str, Any], stage: str) -> None:
    """A start without its end is running, or was killed; an end counts for its own start only."""
    assert read_status(made(tmp_path, **files), now=NOON).stage == stage


def test_the_numbers_are_those_of_the_last_whole_line(tmp_path: Path) -> None:
    """Sixty of 100 steps to go at half a second; validation lines and a half-written line change nothing."""
    metrics = line(20, NOON - 10) + line(40, NOON) + '{"step": 40, "time": 3, "val/x": 1}\n{"step": 50, "train/lo'
    starts = start("10:00:00") + start("10:30:00", restart=1) + start("11:00:00", restart=2)
    status = read_status(made(tmp_path, metrics=metrics, starts=starts, checkpoint=30), now=NOON + 5)
    assert (status.step, status.total_steps, status.left_s) == (40, 100, 30.0)
    assert (status.samples_per_s, status.step_s, status.losses) == (16.0, 0.5, {"loss": 9.0, "loss_itc": 5.0})
    assert (status.epoch, status.epochs) == (2, 3)
    assert (status.starts, status.requeues, status.job) == (3, 2, "7")
    assert status.checkpoint is not None and (status.checkpoint.step, status.checkpoint.whole) == (30, True)
    assert status.silent_s == pytest.approx(5) and not status.overdue


def test_a_long_silence_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines every 60 s: twenty missing lines are reported, fifteen are not."""
    run_dir = made(tmp_path, metrics=line(20, NOON - 60) + line(40, NOON))
    assert not read_status(run_dir, now=NOON + 900).overdue
    assert read_status(run_dir, now=NOON + 1_300).overdue
    run_dir = made(tmp_path / "old", metrics=line(20, 60.0) + line(40, 120.0))
    assert cli.main(["status", str(run_dir)]) == 0
    assert "is its job still running?" in capsys.readouterr().out


def test_a_clock_that_was_set_makes_no_absurd_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Back by two hours: the last line is of the future, and how long the run has been silent is not known. Forward by
    a year between two lines: that is not taken for the usual pause."""
    run_dir = made(tmp_path, metrics=line(20, NOON - 60) + line(40, NOON))
    status = read_status(run_dir, now=NOON - 7200)
    assert (status.silent_s, status.clock_ahead_s, status.overdue) == (None, 7200.0, False)
    assert "dated 2h00m from now: was a clock set back?" in describe(status)
    assert read_status(run_dir, now=NOON - 5).silent_s == 0.0
    for first, last in ((NOON - 366 * 86_400, NOON), (NOON + 366 * 86_400, NOON)):
        (run_dir / "metrics.jsonl").write_text(line(20, first) + line(40, last))
        assert not read_status(run_dir, now=NOON + 500).overdue
        assert read_status(run_dir, now=NOON + 700).overdue


HOSTILE = {
    "a loss that is text": {"metrics.jsonl": line(1, NOON, **{"train/loss": "x"}).encode()},
    "zeros": {"metrics.jsonl": bytes(1 << 20)},
    "one endless line": {"metrics.jsonl": b"x" * (3 << 20)},
    "absurd rates": {
        "metrics.jsonl": line(
            1, 1e300, **{"speed/step_s": 1e300, "speed/samples_per_s": -5, "data/epoch": 1e300}
        ).encode()
    },
    "a step beyond all": {"metrics.jsonl": line(10**30, NOON).encode()},
    "deep JSON": {"env.json": b"[" * 100_000, "metrics.jsonl": b'{"step":' + b"[" * 100_000},
    "a year that time zones do not reach": {"env.json": b'{"started": "9999-12-31T23:59:59-14:00"}'},
    "a start that is a number": {"env.json": b'{"started": 5}'},
    "logs of bytes": {"starts.log": bytes(range(256)) + b"\n", "ends.log": b"\xff code=\xff start=1\n x\n"},
    "values of other types": {"config.yaml": b"name: [a]\nmax_steps: {a: 1}\nepochs: yes\n"},
    "a name that repaints the terminal": {
        "config.yaml": b'name: "\\e[2Jx"\nmax_steps: 10\n',
        "starts.log": b"x job=\x1b[2J\n",
    },
    "a year of steps": {"config.yaml": b"max_steps: 99999999999999999999999999999\n"},
}


@pytest.mark.parametrize("files", HOSTILE.values(), ids=HOSTILE)
def test_damaged_and_hostile_files_make_a_status_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, bytes]
) -> None:
    run_dir = made(tmp_path)
    for name, content in files.items():
        (run_dir / name).write_bytes(content)
    assert cli.main(["status", str(run_dir)]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "\x1b" not in out and all(len(row) < 300 for row in out.splitlines()), out
    assert cli.main(["status", str(run_dir), "--json"]) == 0
    json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


@pytest.mark.parametrize("content", [b"\xc3\x28", b"a: " + b"[" * 5000, b"!!int _", b"- a list", None])
def test_a_config_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    """Not text, nested too deep, YAML that has no value, no keys, a folder: an error, and the way out."""
    run_dir = made(tmp_path, config="")
    config = run_dir / "config.yaml"
    config.mkdir() if content is None else config.write_bytes(content)
    assert cli.main(["status", str(run_dir)]) == 2
    err = capsys.readouterr().err
    assert f"error: {config} cannot be read: " in err and "restore or remove it" in err


def test_pipes_in_a_run_folder_are_not_waited_for(tmp_path: Path) -> None:
    """Nobody will ever write to them."""
    run_dir = made(tmp_path)
    for name in ("metrics.jsonl", "starts.log", "ends.log", "env.json"):
        os.mkfifo(run_dir / name)
    assert read_status(run_dir).stage == "starting"


def test_a_line_far_from_the_end_is_found(tmp_path: Path) -> None:
    """A megabyte of validation lines after the last training line."""
    validation = json.dumps({"step": 40, "time": NOON, "val/x": 1}) + "\n"
    metrics = line(20, NOON - 10) + line(40, NOON) + validation * (2**20 // len(validation))
    assert read_status(made(tmp_path, metrics=metrics), now=NOON).step == 40


def test_a_checkpoint_that_is_not_whole_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file shortened, a file gone, no meta.json, of the only checkpoint there is."""
    run_dir = made(tmp_path, metrics=line(40, NOON), checkpoint=30)
    folder = run_dir / "checkpoints" / "step_00000030"
    expected = {
        f"{folder}/model.pt has 3 bytes, 10 were saved": lambda: (folder / "model.pt").write_bytes(b"012"),
        f"{folder}/model.pt is missing": lambda: (folder / "model.pt").unlink(),
        f"{folder} is not a finished checkpoint: it has no meta.json": lambda: (folder / "meta.json").unlink(),
    }
    for problem, damage in expected.items():
        damage()
        status = read_status(run_dir)
        assert status.checkpoint is not None
        assert (status.checkpoint.step, status.checkpoint.whole, status.checkpoint.problem) == (30, False, problem)
        cli.main(["status", str(run_dir)])
        assert f"step_00000030 is NOT whole: {problem}" in capsys.readouterr().out


@pytest.mark.parametrize("latest", ["missing", "empty", "not UTF-8", "a path", "a folder", "a pipe"])
def test_the_newest_whole_checkpoint_is_shown_for_any_latest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], latest: str
) -> None:
    """After a power cut: the newest checkpoint holds empty files, the one before is what resuming takes."""
    run_dir = made(tmp_path, metrics=line(40, NOON), checkpoint=30)
    newer = made(tmp_path / "other", checkpoint=40) / "checkpoints" / "step_00000040"
    newer.rename(run_dir / "checkpoints" / newer.name)
    (run_dir / "checkpoints" / newer.name / "model.pt").write_bytes(b"")
    pointer = run_dir / "checkpoints" / "latest"
    pointer.unlink()
    if latest == "a folder":
        pointer.mkdir()
    elif latest == "a pipe":
        os.mkfifo(pointer)
    elif latest != "missing":
        pointer.write_bytes({"empty": b"", "not UTF-8": b"\xf3tep_00000040", "a path": b"../step_00000040"}[latest])
    status = read_status(run_dir)
    assert status.checkpoint is not None
    assert (status.checkpoint.name, status.checkpoint.whole, status.checkpoint.problem) == ("step_00000030", True, None)
    assert ("latest" in status.checkpoint.passed_over) == (latest != "missing")
    assert cli.main(["status", str(run_dir)]) == 0
    shown = capsys.readouterr().out
    assert "checkpoint step_00000030, saved 2026-11-22T11:59:00+00:00, whole\n" in shown
    assert "step_00000040 cannot be used: " in shown and "model.pt has 0 bytes, 10 were saved" in shown


def test_damaged_metrics_lines_are_passed_over(tmp_path: Path) -> None:
    """Bytes that are not UTF-8, texts for numbers, numbers beyond all counts, brackets a thousand deep."""
    damaged = [
        line(50, NOON).replace('"train/loss"', '"train/l\udcffss"').encode("utf-8", "surrogateescape"),
        line(50, NOON).replace('"step": 50', '"step": "fifty"').encode(),
        line(50, NOON).replace(f'"time": {NOON}', '"time": 1e999').encode(),
        b"[" * 100_000 + b"\n",
    ]
    run_dir = made(tmp_path, metrics=line(20, NOON - 10) + line(40, NOON))
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.writelines(damaged)
    assert read_status(run_dir, now=NOON).step == 40


def test_the_page_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A loss that was not finite included."""
    metrics = line(40, NOON, **{"train/loss_itm": None})
    run_dir = made(
        tmp_path, starts=start("11:00:00", job="12"), ends=end("11:30:00", 1, 75), metrics=metrics, checkpoint=40
    )
    assert cli.main(["status", str(run_dir)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"run        made in {run_dir}",
        "stage      stopped (job 12, saved; the same command resumes, or Slurm does if the job was requeued)",
        "step       40 of 100 (40.0%), epoch 2 of 3",
        "rate       16.0 samples/s, 0.5 s a step",
        "left       30s",
        "loss       9.0000, itc 5.0000, itm not finite",
        "checkpoint step_00000040, saved 2026-11-22T11:59:00+00:00, whole",
        "starts     1, 0 of them requeued",
    ]


def test_what_is_no_run_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing there; a folder of something else; the folder that holds the runs; a config.yaml that is none."""
    run_dir = made(tmp_path, metrics=line(40, NOON))
    printed = {}
    for folder in (tmp_path / "nowhere", tmp_path, run_dir.parent):
        assert cli.main(["status", str(folder)]) == 2
        printed[folder] = capsys.readouterr().err
    assert printed[tmp_path / "nowhere"].startswith(
        f"error: {tmp_path / 'nowhere'} does not exist\nhint: give runs/NAME"
    )
    assert printed[tmp_path].startswith(f"error: {tmp_path} is not a run folder\nhint: ")
    assert printed[run_dir.parent].endswith(f"hint: there are {run_dir}\n")
    (run_dir / "config.yaml").write_text("a: [1\n")
    assert cli.main(["status", str(run_dir)]) == 2
    assert "config.yaml cannot be read" in capsys.readouterr().err
