"""The same command again resumes and reads added images; one that would make other rows is refused by name."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from data_prep.cli import main
from tests.support.data_prep_runs import failures, samples
from tests.support.hostile_images import jpeg


def tars(out: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in (out / "shards").glob("*.tar")}


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Packs six images in shards of two, of which the first two and the fourth are there."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    for i in (0, 1, 3):
        (tmp_path / "a" / f"{i}.jpg").write_bytes(jpeg())
    entries = [{"image": f"{i}.jpg", "caption": f"a dog {i}"} for i in range(6)]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    flags = ("--annotations", tmp_path / "list.json", "--out", tmp_path / "out", "--images", tmp_path / "a")
    return ["pack", "--shard-size", "2", "--processes", "1", "--image-size", "64", *map(str, flags)]


def test_images_that_turned_up_are_read(tmp_path: Path, command: list[str]) -> None:
    """Copied into the folder, or in a root that was added: their shards are made again, and no others."""
    out = tmp_path / "out"
    assert main(command) == 0
    assert failures(out) == {2: "missing_file", 4: "missing_file", 5: "missing_file"}
    before = tars(out)
    assert main(command) == 0 and tars(out) == before
    (tmp_path / "a" / "2.jpg").write_bytes(jpeg())
    assert main(command) == 0
    again = tars(out)
    assert sorted(samples(out)) == [0, 1, 2, 3] and {name for name in again if again[name] != before[name]} == {
        "list-00001.tar"
    }
    (tmp_path / "b" / "5.jpg").write_bytes(jpeg())
    assert main([*command, str(tmp_path / "b")]) == 0
    assert sorted(samples(out)) == [0, 1, 2, 3, 5] and failures(out) == {4: "missing_file"}


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--images", "{dir}/b"], "--images {dir}/a, now {dir}/b"),
        (["--images", "{dir}/b", "{dir}/a"], "--images {dir}/a, now {dir}/b"),
        (["--strip-prefix", "x/"], "--strip-prefix '', now x/"),
        (["--max-image-bytes", "9"], "--max-image-bytes 50000000, now 9"),
        (["--path-col", "file"], "--path-col path, now file"),
        (["--caption-col", "image"], "--caption-col caption, now image"),
        (["--id-col", "image"], "--id-col None, now image"),
        (["--source", "mine"], "--source list, now mine"),
        (["--image-size", "65"], "--image-size 64, now 65"),
    ],
    ids=str,
)
def test_what_would_make_other_rows_is_named(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str], more: list[str], named: str
) -> None:
    """Exit 2, and nothing is changed."""
    assert main(command) == 0
    before = tars(tmp_path / "out")
    capsys.readouterr()
    assert main([*command, *(word.replace("{dir}", str(tmp_path)) for word in more)]) == 2
    assert named.replace("{dir}", str(tmp_path)) in capsys.readouterr().err
    assert tars(tmp_path / "out") == before


def test_another_tar_of_the_same_name_and_size_is_another_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its images would be read at the places where those of the first one were."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for i in range(4):
            for name in (f"{i}.jpg", f"{i}.txt"):
                (tmp_path / name).write_bytes(jpeg() + bytes(100_000) if name.endswith("jpg") else b"a dog")
                tar.add(tmp_path / name, name)
    command = ["import", str(path), "--out", str(tmp_path / "out"), "--processes", "1", "--image-size", "64"]
    assert main(command) == 0 and main(command) == 0
    data = bytearray(path.read_bytes())
    half = data.index(b"2.jpg") + 512
    data[half : half + 80_000] = bytes(reversed(data[half : half + 80_000]))
    path.write_bytes(data)
    assert main(command) == 2
    assert "was started with another list" in capsys.readouterr().err
