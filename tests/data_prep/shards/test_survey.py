"""What lies in the shards folders beside shards: named, and the manifest stays."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.cli import main
from data_prep.errors import FolderError
from data_prep.lists.row_list import ListedImage
from data_prep.output.job import Folder, check_same_job, write_job
from data_prep.shards.manifest import read_manifest
from data_prep.shards.writer import FetchResult, write_shard
from tests.support.hostile_images import jpeg
from tests.support.made_shards import JOB, ROWS, SHARDS, copy, verify, whole

__all__ = ["copy", "whole"]  # fixtures


def test_files_that_do_not_belong_are_named(copy: Path) -> None:
    shards = copy / "shards"
    (shards / "notes.txt").write_text("x")
    (shards / ".made-00003.tar.77.tmp").write_bytes(b"half")
    shutil.copy(shards / "made-00000.tar", shards / "other-00000.tar")
    shutil.copy(shards / "made-00000.json", shards / "stray.json")
    (shards / "made-00002.tar").unlink()
    result = verify(copy)
    assert {(problem.shard, problem.reason.partition(":")[0]) for problem in result.problems} == {
        ("other-00000.tar", "foreign shard"),
        ("made-00002.json", "record without its tar"),
        ("made-00002.tar", "missing"),
    }
    assert result.strays == [
        "shards/.made-00003.tar.77.tmp: left by an interrupted write",
        "shards/notes.txt: no shard, and not written by data_prep",
        "shards/stray.json: no shard, and not written by data_prep",
    ]


STRAYS = [".DS_Store", ".nfs0000000001", "Thumbs.db", "desktop.ini", "._made-00000.tar", "README", "made-00000.tar.md5"]


def test_files_of_the_system_and_of_persons_leave_the_manifest_alone(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are named, and all is well: exit 0, the same manifest as without them. Folders, pipes and dead links too."""
    assert main(["verify", str(copy), "--processes", "1"]) == 0
    manifest = read_manifest(copy / "manifest.parquet")
    for name in STRAYS:
        (copy / "shards" / name).write_text("x")
    (copy / "shards" / "lost+found").mkdir()
    os.mkfifo(copy / "shards" / "pipe")
    (copy / "shards" / "link").symlink_to("nowhere")
    assert main(["verify", str(copy), "--processes", "1"]) == 0
    printed = capsys.readouterr().out
    assert all(f"note: shards/{name}: no shard" in printed for name in (*STRAYS, "lost+found", "pipe", "link"))
    assert read_manifest(copy / "manifest.parquet") == manifest


def test_a_retrys_round_is_read_by_the_same_rules(copy: Path) -> None:
    """The failed rows of three shards came in a round: strays are notes there, a foreign tar and a loss problems."""
    first, round_one = Folder(copy), Folder(copy / "retry-01")
    for path in (round_one.shards, round_one.failures, round_one.work):
        path.mkdir(parents=True)
    job = replace(JOB, kind="retry", round=1, num_rows=SHARDS)
    rows = {
        shard * ROWS + 1: ListedImage("http://a/1.jpg", ["again"], row=shard * ROWS + 1, supersedes="http_404")
        for shard in range(SHARDS)
    }
    write_shard(round_one, job, 0, rows, [FetchResult(row, jpeg(), None) for row in rows], {})
    write_job(round_one, job)
    (round_one.shards / ".DS_Store").write_bytes(b"x")
    shutil.copy(first.shards / "made-00000.tar", round_one.shards)
    result = verify(copy)
    assert result.strays == ["retry-01/shards/.DS_Store: no shard, and not written by data_prep"]
    assert list(map(str, result.problems)) == ["retry-01/shards/made-00000.tar: foreign shard: not of this job"]
    assert sum(row["num_samples"] for row in read_manifest(copy / "manifest.parquet")) == SHARDS * ROWS
    (round_one.shards / "made-retry01-00000.tar").unlink()
    result = verify(copy)
    assert "made-retry01-00000.tar: missing: run `data_prep retry` again" in map(str, result.problems)
    assert result.withdrawn is not None


def test_a_foreign_shard_is_loud_and_leaves_the_manifest_alone(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1, since somebody may take it for data; what the manifest names is whole, so it is written."""
    shutil.copy(copy / "shards" / "made-00000.tar", copy / "shards" / "backup.tar")
    assert main(["verify", str(copy), "--processes", "1"]) == 1
    assert "wrong: backup.tar: foreign shard: not of this job" in capsys.readouterr().out
    assert [row["path"] for row in read_manifest(copy / "manifest.parquet")] == [
        f"shards/made-0000{index}.tar" for index in range(SHARDS)
    ]
    (copy / "shards" / "made-00001.tar").unlink()
    assert verify(copy).withdrawn, "a shard that it names is gone"


def test_a_systems_file_does_not_make_a_new_folder_another_jobs(tmp_path: Path) -> None:
    """Shards without job.json are somebody's; a .DS_Store is nobody's."""
    folder = Folder(tmp_path)
    folder.shards.mkdir()
    (folder.shards / ".DS_Store").write_bytes(b"x")
    assert check_same_job(folder, JOB) is None
    (folder.shards / "made-00000.tar").write_bytes(b"x")
    with pytest.raises(FolderError, match="shards exists but"):
        check_same_job(folder, JOB)
