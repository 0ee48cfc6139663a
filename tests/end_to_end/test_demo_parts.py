"""The demo's own parts, without its stages: pictures, server, lists, charts, record, children."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from albef.errors import ConfigError
from demo.__main__ import main, table
from demo.pictures import ASSETS, SPLITS, PictureArchive, read_pictures
from demo.processes import MARK, end_leftovers, leftovers
from demo.results import read_scalars
from demo.server import FAULTS, PictureServer
from demo.settings import Record, Settings, open_record
from demo.url_lists import BROKEN, chosen, write_list

ALLOWED_VENDORS = {"noto", "noto-v1", "twemoji", "emojione", "openclipart"}


def test_every_record_has_its_picture_and_a_licence_that_allows_it() -> None:
    """8,554 records, as many pictures, vendors that ATTRIBUTION.md names, at most 25 MB in all."""
    archive = PictureArchive()
    pictures = read_pictures()
    assert len({picture.image for picture in pictures}) == len(pictures) == 8554
    assert all(picture.image in archive for picture in pictures)
    assert {picture.vendor for picture in pictures} == ALLOWED_VENDORS
    attribution = (ASSETS / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert all(f"`{vendor}`" in attribution for vendor in ALLOWED_VENDORS)
    assert all(f"`photos/{photo.name}`" in attribution for photo in (ASSETS / "photos").iterdir())
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 25e6


def test_held_out_names_are_seen_in_training_and_their_pictures_are_not() -> None:
    """test_emoji has known names drawn by other artists: names occur in train, the same bytes do not."""
    archive = PictureArchive()
    by_split = {split: read_pictures(split) for split in SPLITS}
    names = {picture.captions[0] for picture in by_split["train"]}
    assert all(picture.captions[0] in names for picture in by_split["test_emoji"])
    trained = {archive.read(picture.image) for picture in by_split["train"]}
    for split in SPLITS[1:]:
        assert not [p.image for p in by_split[split] if archive.read(p.image) in trained]


def test_scene_boxes_lie_inside_their_pictures() -> None:
    """Each label has a box with an area, within the picture, and is named in the first caption."""
    archive = PictureArchive()
    for scene in read_pictures("test_scenes"):
        width, height = archive.open(scene.image).size
        assert scene.boxes
        for label, (x0, y0, x1, y1) in scene.boxes:
            assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height, scene.image
            assert label in scene.captions[0]


def fetch(url: str) -> tuple[int, str, bytes]:
    """Status, content type and body of one request."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], b""


def test_the_server_answers_each_kind_of_url_as_stated() -> None:
    """The picture's bytes for a picture; for each fault what FAULTS gives for it."""
    archive = PictureArchive()
    name = read_pictures("val")[0].image
    with PictureServer(archive) as server:
        root = f"http://127.0.0.1:{server.port}"
        assert fetch(f"{root}/pictures/{name}") == (200, "image/jpeg", archive.read(name))
        assert fetch(f"{root}/pictures/no-such.jpg")[0] == 404
        assert fetch(f"{root}/../../etc/passwd")[0] == 404
        answers = {fault: fetch(f"{root}/faults/{fault}/{name}") for fault in FAULTS}
        assert answers["gone"][0] == 404
        assert answers["page"][1].startswith("text/html")
        assert len(answers["cut"][2]) == len(archive.read(name)) // 2
        assert answers["empty"][2] == b""
        assert answers["flaky"][0] == 503
        assert fetch(f"{root}/faults/flaky/{name}")[2] == archive.read(name)
        with urllib.request.urlopen(f"{root}/faults/noai/{name}", timeout=10) as answer:
            assert answer.headers["X-Robots-Tag"] == "noai"


def test_a_list_holds_every_picture_and_the_broken_rows_besides(tmp_path: Path) -> None:
    """60 pictures and 13 rows broken on purpose, each of them at a URL that names its fault."""
    pictures = chosen("train", 60)
    path = tmp_path / "train.jsonl"
    assert write_list(path, pictures, port=8000, first_caption_only=False, broken=True) == 60 + len(BROKEN)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    good = [row["url"] for row in rows if "/pictures/" in row["url"]]
    assert good == [f"http://127.0.0.1:8000/pictures/{picture.image}" for picture in pictures]
    broken = Counter(row["url"].split("/")[4] for row in rows if "/faults/" in row["url"])
    assert broken == Counter(BROKEN)
    assert {picture.vendor for picture in pictures} == ALLOWED_VENDORS


def test_the_last_value_of_a_step_counts(tmp_path: Path) -> None:
    """After a resume a step may be in metrics.jsonl twice; curves never fork."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "train/loss": 3.0}\n{"step": 2, "train/loss": 9.0}\n{"step": 2, "train/loss": 2.0}\n')
    assert read_scalars(path) == {"train/loss": [(1, 3.0), (2, 2.0)]}


def test_another_setting_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    """Steps of one seed and evaluation of another must not end in one table."""
    path = tmp_path / "demo.json"
    Record(settings=Settings(seed=1), port=5, stages={"download train": {"seconds": 1.0, "command": ""}}).save(path)
    assert open_record(path, Settings(seed=1)).stages["download train"]["seconds"] == 1.0
    with pytest.raises(ConfigError, match="--seed was 1, is now 2"):
        open_record(path, Settings(seed=2))
    path.write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        open_record(path, Settings(seed=1))


@pytest.mark.parametrize("flags", [["--step", "3"], ["--steps", "0"], ["--steps", "x"], ["--port", "70000"], ["extra"]])
def test_a_wrong_flag_ends_with_error_and_hint(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, `error:` and `hint:`, and nothing else on stderr."""
    assert main([*flags, "--run-dir", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]


def test_the_table_puts_chance_before_and_after_side_by_side() -> None:
    """Every recall, in its row and its column."""
    metrics = {"num_images": 10.0, "num_texts": 10.0}
    number = 1.0
    for prefix in ("", "itc_", "chance_"):
        for way in ("i2t", "t2i"):
            for k in (1, 5, 10):
                metrics[f"{prefix}{way}_recall_at_{k}"] = number
                number += 1
    rows = {line[:28].strip(): line[28:].split() for line in table(metrics, metrics).splitlines() if line[28:]}
    assert rows["after training"] == ["1.0", "2.0", "3.0", "4.0", "5.0", "6.0"]
    assert rows["after, without re-ranking"] == ["7.0", "8.0", "9.0", "10.0", "11.0", "12.0"]
    assert rows["chance"] == ["13.0", "14.0", "15.0", "16.0", "17.0", "18.0"]


def test_children_end_with_the_demo_and_leftovers_are_found(tmp_path: Path) -> None:
    """A parent killed by SIGKILL: its child gets SIGTERM, and a grandchild that ignores it is found and ended."""
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {stubborn!r}])"
    parent = (
        "import sys; from pathlib import Path; from demo.processes import run_child; "
        f"run_child([sys.executable, '-c', {child!r}], run_dir=Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    try:
        wait_until(lambda: len(leftovers(tmp_path)) == 2, "child and grandchild run")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: len(leftovers(tmp_path)) == 1, "the child got SIGTERM")
        assert end_leftovers(tmp_path, patience_s=0.5) == 1
        wait_until(lambda: not leftovers(tmp_path), "the grandchild is gone")
    finally:
        process.kill()
        for pid in leftovers(tmp_path):
            os.kill(pid, signal.SIGKILL)
    assert MARK not in os.environ


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Poll; AssertionError that names what did not happen."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_photographs_are_small_pictures() -> None:
    """Each opens, and is at most 384 px wide."""
    for path in sorted((ASSETS / "photos").glob("*.jpg")):
        with Image.open(io.BytesIO(path.read_bytes())) as photo:
            photo.load()
            assert max(photo.size) <= 384
