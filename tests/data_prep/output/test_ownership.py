"""Only what we wrote is deleted or replaced: files of others stay, under every name that is like one of ours."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.cli import main
from data_prep.errors import FolderError
from data_prep.fetch.supervisor import launch_folders
from data_prep.output.job import Folder, exclusive
from data_prep.output.ownership import leftovers
from tests.support.hostile_images import jpeg

THEIRS = (
    ".notes.tmp",
    ".0001.tar.Xy12Zw",
    ".manifest.parquet.old.tmp",
    "manifest.parquet.tmp",
    ".mine-00000.tar.5.tmp",
)
OURS = (".manifest.parquet.123.tmp", ".report.json.77-0011aabb.tmp")


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def write(path: Path, content: str = "theirs") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture
def packed(tmp_path: Path) -> list[str]:
    """The command that packs six images into tmp_path/out, given once."""
    for i in range(6):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg())
    entries = [{"image": f"{i}.jpg", "caption": f"a dog {i}"} for i in range(6)]
    write(tmp_path / "list.json", json.dumps(entries))
    flags = ("--annotations", tmp_path / "list.json", "--images", tmp_path, "--out", tmp_path / "out")
    command = ["pack", *map(str, flags), "--shard-size", "4", "--processes", "1"]
    assert main(command) == 0
    return command


def test_temporary_files_of_others_stay(tmp_path: Path, packed: list[str]) -> None:
    """What a killed run left goes; rsync's and a person's do not, in any folder of the job."""
    out = tmp_path / "out"
    for folder in ("", "shards", "failures", ".work"):
        for name in THEIRS:
            write(out / folder / name)
    for name in OURS:
        write(out / name)
    write(out / "shards" / ".list-00001.tar.9.tmp")
    write(out / ".work" / ".progress.json.4-00ff00ff.tmp")
    main(packed)
    there = files(out)
    assert {str(Path(folder) / name) for folder in ("", "shards", "failures", ".work") for name in THEIRS} <= there
    assert not {*OURS, "shards/.list-00001.tar.9.tmp", ".work/.progress.json.4-00ff00ff.tmp"} & there


def test_names_of_unpublished_files(tmp_path: Path) -> None:
    """A process id, or one and a random number, after a name that is the caller's; folders and links are none."""
    for name in (*THEIRS, *OURS):
        write(tmp_path / name)
    (tmp_path / ".report.json.1.tmp").mkdir()
    found = {path.name for path in leftovers(tmp_path, {"manifest.parquet", "report.json"}.__contains__)}
    assert found == set(OURS)


@pytest.mark.parametrize("name", ["report.json", "manifest.parquet", "failures/mine.txt", "excluded/domains.txt"])
def test_a_folder_with_files_of_others_is_no_new_folder(tmp_path: Path, packed: list[str], name: str) -> None:
    """Exit 2 before anything is written; the file is as it was."""
    theirs = write(tmp_path / "used" / name)
    command = [word if word != str(tmp_path / "out") else str(tmp_path / "used") for word in packed]
    assert main(command) == 2
    assert theirs.read_text() == "theirs" and files(tmp_path / "used") == {name}


def test_work_of_others_stays(tmp_path: Path, packed: list[str]) -> None:
    """A person's folder `raw` under --work is left as it is; a file that would be replaced is refused."""
    command = [word if word != str(tmp_path / "out") else str(tmp_path / "used") for word in packed]
    theirs = write(tmp_path / "used" / ".work" / "rows.parquet")
    assert main(command) == 2 and theirs.read_text() == "theirs"
    with pytest.raises(FolderError, match="data_prep did not write it"), exclusive(Folder(tmp_path / "used")):
        pass
    theirs.unlink()
    photo = write(tmp_path / "used" / ".work" / "raw" / "2024" / "photo.nef")
    assert main(command) == 0 and photo.read_text() == "theirs"


def test_only_launches_are_launches(tmp_path: Path) -> None:
    """A folder that a fetch made has its name and its launch.txt."""
    folder = Folder(tmp_path)
    ours = write(folder.raw / "18a1f00dcafe-4711" / "launch.txt").parent
    for name in ("2024/photo.nef", "cafe-12/photo.nef", "holiday/launch.txt"):
        write(folder.raw / name)
    assert launch_folders(folder) == [ours]


def test_a_filter_takes_no_folder_that_it_did_not_make(tmp_path: Path, packed: list[str]) -> None:
    """`removed/` is deleted when a filter is given again, so one of a person's is refused at the first time."""
    theirs = write(tmp_path / "corpus" / "removed" / "photo.jpg")
    assert main(["filter", str(tmp_path / "out"), "--out", str(tmp_path / "corpus"), "--processes", "1"]) == 2
    assert theirs.read_text() == "theirs"
    theirs = write(tmp_path / "other" / ".work" / "looks.npy")
    assert main(["filter", str(tmp_path / "out"), "--out", str(tmp_path / "other"), "--processes", "1"]) == 2
    assert theirs.read_text() == "theirs"


def test_outputs_do_not_replace_files_of_others(
    tmp_path: Path, packed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`report --out` and `list --out` replace their own page and list, and nothing else."""
    page, listed = write(tmp_path / "thesis.html"), tmp_path / "mine.parquet"
    report = ["report", str(tmp_path / "out"), "--out", str(page)]
    assert main(report) == 2 and page.read_text() == "theirs"
    assert "thesis.html exists and was not written by this command" in capsys.readouterr().err
    page.unlink()
    assert main(report) == 0 and main(report) == 0
    pq.write_table(pa.table({"mine": [1]}), listed)
    write(tmp_path / "a.tsv", "a\thttp://a.example/1.jpg\n")
    command = ["list", "cc3m", str(tmp_path / "a.tsv"), "--out", str(listed)]
    assert main(command) == 2 and pq.read_schema(listed).names == ["mine"]
    listed.unlink()
    assert main(command) == 0 and main(command) == 0
