"""`data_prep status`: what each part is doing, from files alone, and right to the second and the row."""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from data_prep.accounts.array_status import array_status
from data_prep.cli import main
from data_prep.errors import UnfinishedError
from data_prep.output.job import Folder, ImageSettings, Job, write_job
from data_prep.output.part_progress import PartProgress, read_states
from data_prep.output.parts import Part

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def begin(folder: Folder, num_rows: int = 400) -> Job:
    images = ImageSettings(image_size=64)
    job = Job(kind="download", source="web", inputs_sha256="0", shard_size=10, images=images, num_rows=num_rows)
    folder.work.mkdir(parents=True, exist_ok=True)
    write_job(folder, job)
    return job


def write_progress(root: Path, part: str, *, written_s_ago: float, changed_s_ago: float = 0.0, **fields: Any) -> None:
    """Leave the progress.json that a part would have left."""
    number, _, count = part.partition("/")
    folder = Folder(root, Part(int(number), int(count)))
    folder.work.mkdir(parents=True, exist_ok=True)
    state = {
        "part": part,
        "pid": 4711,
        "host": f"node{number}",
        "state": "making shards",
        "started": "2026-03-01T11:00:00+00:00",
        "written": (NOW - timedelta(seconds=written_s_ago)).isoformat(),
        "changed": (NOW - timedelta(seconds=changed_s_ago)).isoformat(),
        "shards": 10,
        "rows": 100,
        **fields,
    }
    (folder.work / "progress.json").write_text(json.dumps(state))


def test_each_part_has_a_line_and_all_of_them_one(tmp_path: Path) -> None:
    """Four parts of 100 rows: one at work, one killed, one finished, one that has not started."""
    job = begin(Folder(tmp_path))
    write_progress(
        tmp_path, "1/4", written_s_ago=1, rows_answered=60, rows_finished=50, shards_finished=5, rate=4.0, restarts=1
    )
    write_progress(tmp_path, "2/4", written_s_ago=95, rows_answered=30, rows_finished=20, shards_finished=2, rate=3.0)
    write_progress(tmp_path, "3/4", written_s_ago=600, state="finished", shards_finished=10, rows_answered=100, kept=97)
    assert array_status(Folder(tmp_path), job, NOW).lines() == [
        "part 1/4: making shards  shards 5/10, rows 60/100 (60%)  4.0/s  10s left  "
        "node1:4711 since 2026-03-01T11:00:00+00:00, img2dataset started again 1 times",
        "part 2/4: silent for 1m35s, killed or cut off  shards 2/10, rows 30/100 (30%)  3.0/s  23s left  "
        "node2:4711 since 2026-03-01T11:00:00+00:00",
        "part 3/4: finished 2026-03-01T11:50:00+00:00, shards 10/10, 97 kept",
        "part 4/4: not started",
        # what part 1 reports; there is no shard in this folder, so of the others nothing is finished
        "all: 1 running, rows 60/400 (15%)  4.0/s  ? left",
    ]


def test_a_row_is_counted_once_when_its_shard_is_finished_after_the_part_spoke(tmp_path: Path) -> None:
    """Part 1 spoke of 19 rows, since then both of its shards were finished; part 2 has 15 under way: 35 of 40 rows."""
    folder = Folder(tmp_path)
    job = begin(folder, 40)
    folder.shards.mkdir()
    for shard in (0, 2):
        name = job.shard_name(shard)
        (folder.shards / f"{name}.tar").write_bytes(bytes(5))
        counts = {"listed": 10, "kept": 10, "failed": {}, "bytes": 5, "sha256": "0"}
        record = {"version": 1, "name": name, "source": "web", **counts, "tools": {}, "arguments": {}, "created": ""}
        (folder.shards / f"{name}.json").write_text(json.dumps(record))
    write_progress(tmp_path, "1/2", written_s_ago=2, rows=20, rows_answered=19, rows_finished=10, rate=4.0)
    write_progress(tmp_path, "2/2", written_s_ago=2, rows=20, rows_answered=15, rate=3.0)
    assert array_status(folder, job, NOW).rows_answered == 35


def test_time_left_is_that_of_the_slowest_part(tmp_path: Path) -> None:
    """40 rows at 4 a second and 90 at 3: 30 s, once nobody is missing."""
    job = begin(Folder(tmp_path), 200)
    write_progress(tmp_path, "1/2", written_s_ago=1, rows_answered=60, rate=4.0)
    write_progress(tmp_path, "2/2", written_s_ago=1, rows_answered=10, rate=3.0)
    status = array_status(Folder(tmp_path), job, NOW)
    assert (status.left_s, status.rate, status.rows_answered) == (30.0, 7.0, 70)


def test_a_part_that_writes_but_gets_no_answer_is_reported(tmp_path: Path) -> None:
    job = begin(Folder(tmp_path))
    write_progress(tmp_path, "1/1", written_s_ago=0, changed_s_ago=3700, rows_answered=60, rate=4.0)
    assert "making shards, no row for 1h01m  shards" in array_status(Folder(tmp_path), job, NOW).lines()[0]


def test_another_cut_is_forgotten_unless_it_still_runs(tmp_path: Path) -> None:
    """Started in two, resumed in three: the two are history, but one of them was never ended."""
    job = begin(Folder(tmp_path))
    write_progress(tmp_path, "1/2", written_s_ago=4000, state="stopped", error="the disk is full")
    write_progress(tmp_path, "2/2", written_s_ago=10)
    write_progress(tmp_path, "3/3", written_s_ago=5, state="stopped", error="the disk is full")
    lines = array_status(Folder(tmp_path), job, NOW).lines()
    assert [line.partition("  ")[0] for line in lines] == [
        "part 1/3: not started",
        "part 2/3: not started",
        "part 3/3: stopped 2026-03-01T11:59:55+00:00, shards 0/10: the disk is full",
        "part 2/2: making shards",
        "all: 1 running, rows 0/400 (0%)",
    ]


def test_a_part_says_what_it_does_and_why_it_stopped(tmp_path: Path) -> None:
    """From its first moment to its last; rows of earlier runs are no part of its rate."""
    folder = Folder(tmp_path, Part(2, 3))
    begin(folder)

    def state() -> tuple[str, int, int, bool]:
        state = read_states(folder)[0]
        return state.state, state.rows_answered, state.restarts, state.rate > 0

    with pytest.raises(UnfinishedError), PartProgress(folder) as reporter:
        assert state() == ("reading the list", 0, 0, False)
        reporter.begin(shards=4, rows=40, rows_before=20)
        reporter.update(shards_finished=2, rows_finished=20, rows_answered=20, kept=18)
        reporter.restarted()
        assert state() == ("making shards", 20, 1, False)
        reporter.update(shards_finished=2, rows_finished=20, rows_answered=25, kept=18)
        reporter.verifying()
        assert state() == ("verifying", 25, 1, True)
        raise UnfinishedError("the network is gone", "fix it")
    last = read_states(folder)[0]
    assert (last.state, last.error, last.part) == ("stopped", "the network is gone", "2/3")
    assert (last.pid, last.host) == (os.getpid(), socket.gethostname())


def test_status_shows_retry_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A round is a job folder inside the job's."""
    begin(Folder(tmp_path))
    begin(Folder(tmp_path / "retry-01"), 30)
    write_progress(tmp_path / "retry-01", "1/1", written_s_ago=0, state="stopped", error="no room")
    assert main(["status", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "retry-01: download of web\npart 1/1: stopped" in printed and "no room" in printed
    assert main(["status", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["listed"], printed["retries"]["retry-01"]["listed"], printed["parts"]) == (400, 30, [])
