"""Little of what was listed is no success: exit code 1, the commonest reasons, and the way out. None never is."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_prep.accounts.min_yield import check_yield
from data_prep.cli import main
from data_prep.errors import YieldError
from data_prep.shards.manifest import read_manifest
from tests.support.hostile_images import jpeg

SHARDS = ("--image-size", "64", "--shard-size", "8", "--processes", "1")


def pack(root: Path, good: int, bad: int, *more: str) -> int:
    """Pack this many images, and this many files that are no images."""
    (root / "images").mkdir(exist_ok=True)
    for i in range(good + bad):
        (root / "images" / f"{i}.jpg").write_bytes(jpeg() if i < good else b"no image")
    entries = [{"image": f"{i}.jpg", "caption": "a dog"} for i in range(good + bad)]
    (root / "list.json").write_text(json.dumps(entries))
    flags = ("--annotations", root / "list.json", "--images", root / "images", "--out", root / "out")
    return main(["pack", *map(str, flags), *SHARDS, *more])


def test_a_tenth_is_no_success_and_stays_true(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """2 of 20: shards and manifest are there, each reason has an example, and the flag in the hint accepts it."""
    assert pack(tmp_path, 2, 18) == 1
    error = capsys.readouterr().err
    assert "error: pack kept 2 of 20 (10.0%), less than --min-yield 0.5: 18 not_an_image (row 2: 2.jpg)" in error
    assert "--min-yield 0.1 accepts it" in error and str(tmp_path / "out" / "failures") in error
    assert sum(row["num_samples"] for row in read_manifest(tmp_path / "out" / "manifest.parquet")) == 2
    assert pack(tmp_path, 2, 18) == 1, "nothing is left to do, and it is still no success"
    assert pack(tmp_path, 2, 18, "--min-yield", "0.1") == 0


def test_none_is_never_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Any yield is accepted: no manifest, so that training has nothing to start on; verify and report agree."""
    assert pack(tmp_path, 0, 3, "--min-yield", "0") == 1
    error = capsys.readouterr().err
    assert "error: pack kept 0 of 3 (0.0%): 3 not_an_image" in error and "accepts it" not in error
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    for flags in ([], ["--keep-going"]):
        assert main(["verify", str(tmp_path / "out"), "--processes", "1", *flags]) == 1
        assert "would name no sample" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "out")]) == 2
    (tmp_path / "empty" / "shards").mkdir(parents=True)
    assert main(["verify", str(tmp_path / "empty"), "--processes", "1"]) == 1
    assert not (tmp_path / "empty" / "manifest.parquet").exists()


def test_tars_are_no_exception(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`import` of which one of four samples has a caption."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(4):
            for name, data in (
                (f"{i}.jpg", jpeg()),
                (f"{i}.json", json.dumps({"caption": None if i else "x"}).encode()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    flags = ["import", str(tmp_path / "a.tar"), "--out", str(tmp_path / "out"), *SHARDS]
    assert main(flags) == 1
    assert "import kept 1 of 4 (25.0%), less than --min-yield 0.5: 3 empty_caption" in capsys.readouterr().err
    assert main([*flags, "--min-yield", "0.25"]) == 0


def test_a_list_of_which_little_is_usable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A third usable: the list is there, with exit code 1. None usable: there is none."""
    path, out = tmp_path / "a.tsv", tmp_path / "list.parquet"
    path.write_text("a\thttp://a.example/1.jpg\n \thttp://a.example/2.jpg\nc\tN/A\n")
    assert main(["list", "cc3m", str(path), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "list took 1 of 3 (33.3%), less than --min-yield 0.5" in error and "1 bad_url (row 2: 'N/A'" in error
    assert pq.read_table(out).num_rows == 3
    assert main(["list", "cc3m", str(path), "--out", str(out), "--min-yield", "0.3"]) == 0
    capsys.readouterr()
    path.write_text(" \thttp://a.example/2.jpg\n")
    assert main(["list", "cc3m", str(path), "--out", str(tmp_path / "none.parquet"), "--min-yield", "0"]) == 1
    assert "list took 0 of 1 (0.0%): 1 empty_caption" in capsys.readouterr().err
    assert not (tmp_path / "none.parquet").exists()


def test_a_filter_that_leaves_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run that keeps none ends as the filter would; equal images leave one of twelve."""
    assert pack(tmp_path, 12, 0) == 0
    flags = ["filter", str(tmp_path / "out"), "--out", str(tmp_path / "corpus"), "--processes", "1"]
    for more in (["--dry-run"], []):
        assert main([*flags, "--min-words", "9", *more]) == 1
        assert "none of 12 samples passes the rules: 12 " in capsys.readouterr().err
    assert not (tmp_path / "corpus" / "manifest.parquet").exists()
    rest = ["--min-words", "1", "--min-side", "1", "--max-aspect", "9", "--off", "common_caption"]
    assert main([*flags, *rest]) == 1
    error = capsys.readouterr().err
    assert "filter kept 1 of 12 (8.3%), less than --min-yield 0.1: 11 exact_duplicate" in error
    assert main([*flags, *rest, "--min-yield", "0.05"]) == 0


def test_the_least_share_is_a_share_of_all() -> None:
    """At the limit is enough; an account without rows is none."""
    check_yield("x kept", 1, 10, 0.1, {}, "hint")
    with pytest.raises(YieldError, match=r"^x kept 0 of 0 \(0\.0%\) "):
        check_yield("x kept", 0, 0, 0.0, {}, "hint")
