"""Annotation lists as ALBEF released them: an entry a caption, paths of another machine, images still in their zips."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from data_prep.cli import main
from data_prep.lists.annotations import merge_captions
from data_prep.lists.row_list import ListedImage
from data_prep.stages.local_images import open_local_images
from samples.image_roots import NotRead
from tests.support.data_prep_runs import failures, samples
from tests.support.hostile_images import halves, jpeg

SIZES = ("--image-size", "64", "--shard-size", "3", "--processes", "1", "--min-yield", "0")
THEIRS = "/export/home/somebody/data/"


def test_entries_of_one_image_become_one_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the place of its first entry, each caption once; rows without a name stay rows; nothing else moves."""
    entries = [
        ListedImage("a.jpg", ["a cat"]),
        ListedImage("b.jpg", ["a dog"], None, "7", "CC0"),
        ListedImage("", [], "bad_row: first"),
        ListedImage("a.jpg", [], "empty_caption: none"),
        ListedImage("a.jpg", ["a tom", "a cat"], None, "8"),
        ListedImage("", [], "bad_row: second"),
        ListedImage("c.jpg", [], "empty_caption: none"),
        ListedImage("b.jpg", ["ein Hund ☕"]),
    ]
    assert list(merge_captions(iter(entries), tmp_path)) == [
        ListedImage("a.jpg", ["a cat", "a tom"]),
        ListedImage("b.jpg", ["a dog", "ein Hund ☕"], None, "7", "CC0"),
        *(entries[2], entries[5], entries[6]),
    ]
    assert "8 entries name 5 images" in capsys.readouterr().err
    assert list(merge_captions(iter([]), tmp_path)) == []
    assert not list(tmp_path.iterdir())


def test_merging_agrees_with_a_dictionary(tmp_path: Path) -> None:
    """Three thousand entries over seven hundred images, spread as badly as can be."""
    entries = [ListedImage(f"{number * 7919 % 700}.jpg", [f"caption {number}"]) for number in range(3000)]
    expected: dict[str, list[str]] = {}
    for entry in entries:
        expected.setdefault(entry.url, []).extend(entry.captions)
    assert {image.url: image.captions for image in merge_captions(entries, tmp_path)} == expected


def write_annotations(folder: Path) -> Path:
    entries = [
        {"image": f"{THEIRS}vg/VG_100K/1.jpg", "caption": "a clock"},
        {"image": f"{THEIRS}coco/2.jpg", "caption": "two"},
        {"image": f"{THEIRS}vg/VG_100K/1.jpg", "caption": "shade"},
        {"image": f"{THEIRS}vg/VG_100K/9.jpg", "caption": "not there"},
    ]
    path = folder / "vg.json"
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture
def zipped(tmp_path: Path) -> Path:
    """One image in a zip, with its folder, and one outside."""
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("VG_100K/1.jpg", jpeg(halves(90, 70)))
    (tmp_path / "loose" / "coco").mkdir(parents=True)
    (tmp_path / "loose" / "coco" / "2.jpg").write_bytes(jpeg(halves(80, 70)))
    return tmp_path


def pack(root: Path, *more: object) -> int:
    annotations = write_annotations(root)
    roots = (root / "loose", root / "images.zip")
    flags = ("--annotations", annotations, "--images", *roots, "--out", root / "out", *SIZES, *more)
    return main(["pack", *map(str, flags)])


def test_zips_and_folders_and_prefixes_of_other_machines(zipped: Path) -> None:
    """Three images of four entries: one out of the zip with both its captions, one from the folder, one missing."""
    assert pack(zipped, "--strip-prefix", f"{THEIRS}vg", "--strip-prefix", THEIRS) == 0
    stored = samples(zipped / "out")
    assert {row: (meta["url"], meta["captions"]) for row, (_, meta) in stored.items()} == {
        0: ("VG_100K/1.jpg", ["a clock", "shade"]),
        1: ("coco/2.jpg", ["two"]),
    }
    assert failures(zipped / "out") == {2: "missing_file"}


def test_when_no_image_is_there_the_prefix_is_named(zipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 before a shard is made; the hint works as it stands, and the same folder can be used then."""
    assert pack(zipped) == 2
    error = capsys.readouterr().err
    assert "none of the first 3 images is in" in error and f"{THEIRS}vg/VG_100K/1.jpg" in error
    assert f"hint: --strip-prefix {THEIRS}vg/ finds them there" in error
    assert not (zipped / "out" / "job.json").exists()
    assert pack(zipped, "--strip-prefix", f"{THEIRS}vg/") == 0
    assert list(samples(zipped / "out")) == [0]


def test_another_prefix_is_another_job(zipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows would be other rows under the same keys."""
    assert pack(zipped, "--strip-prefix", f"{THEIRS}vg") == 0
    assert pack(zipped, "--strip-prefix", THEIRS) == 2
    assert f"was started with --strip-prefix {THEIRS}vg, now {THEIRS}" in capsys.readouterr().err


def test_what_a_zip_cannot_give_is_a_reason(zipped: Path) -> None:
    """A member that is too large, absent, or damaged; and a file that is no zip is refused at once."""
    archive = zipped / "images.zip"
    local = open_local_images([str(archive)])
    with pytest.raises(NotRead, match=r"^file_too_large: "):
        local.read("VG_100K/1.jpg", 100)
    with pytest.raises(NotRead, match=r"^missing_file: "):
        local.read("VG_100K/2.jpg", 10**6)
    damaged = zipped / "damaged.zip"
    data = bytearray(archive.read_bytes())
    data[200] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(NotRead, match=r"^unreadable_file: "):
        open_local_images([str(damaged)]).read("VG_100K/1.jpg", 10**6)
    (zipped / "no.zip").write_bytes(b"no zip")
    assert main(["pack", "--annotations", "x.json", "--images", str(zipped / "no.zip"), "--out", "o"]) == 2


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_list_of_ones_own_with_paths(zipped: Path, kind: str) -> None:
    """Named columns, as for URLs; a row without a path is counted, and rows of one image are merged."""
    rows = [
        ("coco/2.jpg", "two", "42"),
        ("VG_100K/1.jpg", "a clock", ""),
        ("", "whose?", ""),
        ("coco/2.jpg", "deux", ""),
    ]
    names = ("file", "title", "n")
    path = zipped / f"mine.{kind}"
    if kind == "csv":
        path.write_text("\n".join(",".join(row) for row in [names, *rows]))
    else:
        path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    columns = ("--path-col", "file", "--caption-col", "title", "--id-col", "n")
    roots = (zipped / "loose", zipped / "images.zip")
    flags = ("--annotations", path, *columns, "--images", *roots, "--out", zipped / "out", *SIZES)
    assert main(["pack", *map(str, flags)]) == 0
    stored = {
        row: (meta["url"], meta["captions"], meta.get("id")) for row, (_, meta) in samples(zipped / "out").items()
    }
    assert stored == {0: ("coco/2.jpg", ["two", "deux"], "42"), 1: ("VG_100K/1.jpg", ["a clock"], None)}
    assert failures(zipped / "out") == {2: "bad_row"}
