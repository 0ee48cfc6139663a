"""Killed at any instant, the same command resumes: finished shards stay as they are, and every row is accounted for."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.data_prep_runs import alive, command_line, failures, kill_all, run, samples, start, wait_for
from tests.support.hostile_images import jpeg
from tests.support.image_server import ImageServer, Reply
from tests.support.job_processes import family

NUM_ROWS, SHARD_SIZE = 120, 15
FLAGS = (
    "--allow-private-addresses",
    *("--image-size", 64, "--shard-size", SHARD_SIZE, "--processes", 2, "--threads", 3),
    *("--timeout", 2, "--image-timeout", 2, "--retries", 0, "--max-pause", 1, "--stall-timeout", 6),
)


@pytest.fixture
def slow_server() -> Iterator[ImageServer]:
    """Half a second an image, so that there is a middle to be killed in; every tenth is gone."""
    image = jpeg()

    def reply(path: str) -> Reply:
        return Reply(status=404) if path.endswith("7.jpg") else Reply(image, delay_s=0.25)

    with ImageServer() as server:
        server.serve_anything(reply)
        yield server


def write_list(path: Path, server: ImageServer, num_rows: int) -> Path:
    lines = [f"{server.url(f'/{row:04d}.jpg')}\tpicture {row}" for row in range(num_rows)]
    path.write_text("url\tcaption\n" + "\n".join(lines) + "\n")
    return path


def finished(folder: Path) -> dict[str, tuple[int, str]]:
    """Modification time and hash of the tars that have a record."""
    tars = [path.with_suffix(".tar") for path in (folder / "shards").glob("*.json")]
    return {tar.name: (tar.stat().st_mtime_ns, hashlib.sha256(tar.read_bytes()).hexdigest()) for tar in tars}


def check_complete(folder: Path, num_rows: int) -> None:
    kept, failed = samples(folder), failures(folder)
    assert sorted([*kept, *failed]) == list(range(num_rows))
    assert failed == {row: "http_404" for row in range(num_rows) if row % 10 == 7}


@pytest.mark.slow
def test_killed_twice_nothing_is_lost_and_finished_shards_are_not_redone(
    slow_server: ImageServer, tmp_path: Path
) -> None:
    """First kill -9 of the whole tree at once, then of the command alone, whose workers must then end by themselves."""
    out = tmp_path / "out"
    command = ("download", "--urls", write_list(tmp_path / "list.tsv", slow_server, NUM_ROWS), "--out", out, *FLAGS)

    first = start(*command)
    wait_for(lambda: len(finished(out)) >= 2 if out.exists() else None, "two finished shards")
    kill_all(family(first.pid))
    first.communicate()
    after_first = finished(out)
    assert 2 <= len(after_first) < NUM_ROWS // SHARD_SIZE
    shutil.copy(next((out / "shards").glob("*.tar")), out / "shards" / ".half.tar.1.tmp")  # as a kill while writing

    second = start(*command)
    try:
        wait_for(lambda: len(finished(out)) > len(after_first), "one more shard")
        workers = family(second.pid)
        assert len(workers) >= 4, "the command, img2dataset, and workers of both"
        os.kill(second.pid, signal.SIGKILL)
        second.communicate()
        wait_for(lambda: not any(map(alive, workers)), "workers to end without their parent", 15)
    finally:
        kill_all(family(second.pid))
    after_second = finished(out)

    third = run(*command)
    assert third.returncode == 0, third.stderr
    at_the_end = finished(out)
    for before in (after_first, after_second):
        assert {name: at_the_end[name] for name in before} == before, "a finished shard was written again"
    check_complete(out, NUM_ROWS)


@pytest.mark.slow
def test_a_killed_download_worker_is_noticed_and_its_shard_fetched_again(
    slow_server: ImageServer, tmp_path: Path
) -> None:
    """img2dataset's pool waits for ever for a killed worker; the watchdog starts it again."""
    out = tmp_path / "out"
    num_rows = 4 * SHARD_SIZE
    process = start(
        "download", "--urls", write_list(tmp_path / "list.tsv", slow_server, num_rows), "--out", out, *FLAGS
    )
    try:
        wait_for(lambda: [p for p in (out / ".work" / "raw").glob("*/*.rows") if p.stat().st_size > 2], "answered rows")
        runner = next(pid for pid in family(process.pid) if "img2dataset_run" in command_line(pid))
        worker = next(pid for pid in family(runner)[1:] if "spawn_main" in command_line(pid))
        libraries = Path(f"/proc/{worker}/maps").read_text()
        assert "cv2" in libraries and "libtorch" not in libraries, "500 MB a worker, where torch is installed as here"
        os.kill(worker, signal.SIGKILL)
        _, stderr = process.communicate(timeout=200)
    finally:
        kill_all(family(process.pid))
    assert process.returncode == 0, stderr
    assert "answered no row for 6 s and was killed" in stderr
    check_complete(out, num_rows)


def test_an_interrupt_ends_the_whole_tree(slow_server: ImageServer, tmp_path: Path) -> None:
    """SIGTERM, as a scheduler sends it: exit 143, no process left, and no traceback."""
    out = tmp_path / "out"
    process = start("download", "--urls", write_list(tmp_path / "list.tsv", slow_server, 30), "--out", out, *FLAGS)
    try:
        runner = wait_for(
            lambda: [pid for pid in family(process.pid) if "img2dataset_run" in command_line(pid)],
            "img2dataset to start",
        )
        members = family(process.pid)
        process.terminate()
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 143 and runner
        assert "the same command resumes from there" in stderr and "Traceback" not in stderr
        wait_for(lambda: not any(map(alive, members)), "the tree to end", 15)
    finally:
        kill_all(family(process.pid))


def test_a_dead_network_is_not_taken_for_a_dead_list(tmp_path: Path) -> None:
    """100 of 100 rows refused: exit 1, nothing recorded, so that the next run asks again."""
    urls = tmp_path / "list.tsv"
    urls.write_text("url\tcaption\n" + "".join(f"http://127.0.0.1:1/{row}.jpg\tx\n" for row in range(100)))
    flags = ("--allow-private-addresses", "--shard-size", 100, "--processes", 1, "--retries", 0)
    process = run("download", "--urls", urls, "--out", tmp_path / "out", *flags)
    assert process.returncode == 1
    assert "only 0 of 100 images could be downloaded, less than --min-yield 0.1" in process.stderr
    assert "hint: check the network" in process.stderr
    assert not list((tmp_path / "out" / "shards").iterdir())
