"""`download --distributor pyspark`: a real Spark on this machine makes the same shards as without Spark."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

from data_prep.cli import main
from data_prep.lists.row_list import read_shard_rows
from data_prep.output.job import Folder, read_job
from data_prep.shards.writer import FetchResult, write_shard
from tests.support.data_prep_runs import alive, kill_all, run, samples, start, wait_for
from tests.support.hostile_images import jpeg
from tests.support.image_server import ImageServer, Reply
from tests.support.job_processes import family

NUM_ROWS = 20
FLAGS = (
    *("--allow-private-addresses", "--image-size", 64, "--shard-size", 5, "--source", "web"),
    *("--processes", 2, "--threads", 1, "--retries", 0),
)


@pytest.fixture(autouse=True)
def java() -> None:
    """Without Java: a failure where CI=true, elsewhere a skip."""
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        assert os.environ.get("CI") != "true", "the machine has no Java: .ci/run installs it"
        pytest.skip("no Java: apt-get install openjdk-17-jre-headless")


def differing(folder: Folder) -> list[str]:
    """Shards of a job that are not, byte for byte, what its list and the server's answers make."""
    job = read_job(folder)
    assert job is not None
    apart = Folder(folder.root.with_name("apart"))
    for path in (apart.shards, apart.failures, apart.work):
        path.mkdir(parents=True)
    for shard in range(job.num_shards):
        rows = read_shard_rows(folder.rows, shard)
        results = [
            FetchResult(row, None, "http_404: x") if row == 7 else FetchResult(row, jpeg(), None) for row in rows
        ]
        write_shard(apart, job, shard, rows, results, {})
    names = [f"{job.shard_name(shard)}.tar" for shard in range(job.num_shards)]
    return [name for name in names if (folder.shards / name).read_bytes() != (apart.shards / name).read_bytes()]


def working(pid: int) -> dict[int, str]:
    """Shared libraries of the descendants that have img2dataset's OpenCV, by process."""
    maps = {}
    for member in family(pid):
        try:
            libraries = Path(f"/proc/{member}/maps").read_text()
        except OSError:
            continue
        if "cv2" in libraries:
            maps[member] = libraries
    return maps


@pytest.mark.slow
def test_two_spark_workers_make_the_shards_of_the_list(tmp_path: Path) -> None:
    """Byte for byte; both workers without torch; Spark ends with a command that is killed, and a new one resumes."""
    urls = tmp_path / "list.tsv"
    with ImageServer() as server:
        server.serve_anything(lambda path: Reply(status=404) if path == "/7.jpg" else Reply(jpeg(), delay_s=0.3))
        lines = [f"{server.url(f'/{row}.jpg')}\tpicture {row}\n" for row in range(NUM_ROWS)]
        urls.write_text("url\tcaption\n" + "".join(lines))
        spark = ("download", "--urls", urls, "--out", tmp_path / "spark", *FLAGS, "--distributor", "pyspark")
        process = start(*spark)
        members: list[int] = []
        try:
            # img2dataset's own process has OpenCV too
            maps = wait_for(lambda: found if len(found := working(process.pid)) >= 3 else None, "two Spark workers")
            assert not [pid for pid, libraries in maps.items() if "libtorch" in libraries]
            wait_for(lambda: list((tmp_path / "spark" / "shards").glob("*.json")), "a shard")
            members = family(process.pid)
        finally:
            os.kill(process.pid, 9)
            process.communicate()
        wait_for(lambda: not any(map(alive, members)), "Spark to end with the command", 30)
        kill_all(members)

        again = run(*spark)
        assert again.returncode == 0, again.stderr
    assert list(samples(tmp_path / "spark")) == [row for row in range(NUM_ROWS) if row != 7]
    assert differing(Folder(tmp_path / "spark")) == []
    assert not list((tmp_path / "spark" / ".work" / "raw").iterdir())


def test_what_spark_needs_is_asked_for_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """img2dataset would fail in a child process, or do nothing and exit with 0."""
    command = ["download", "--urls", str(tmp_path / "list.tsv"), "--out", str(tmp_path / "out")]
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([*command, "--distributor", "pyspark"]) == 2
    assert "needs Java, which was not found" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([*command, "--distributor", "pyspark"]) == 2
    error = capsys.readouterr().err
    assert "needs pyspark, which is not installed" in error and "pip install '.[data,spark]'" in error
    assert main([*command, "--spark-master", "spark://head:7077"]) == 2
    assert "is not used by multiprocessing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
