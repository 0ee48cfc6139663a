"""The command line: local images packed for real, and every mistake gets an error, a hint and an exit code."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from data_prep.cli import main
from data_prep.shards.manifest import read_manifest
from tests.support.data_prep_runs import ROOT, failures, samples
from tests.support.hostile_images import halves, jpeg, rotated_jpeg, saved


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two annotation files over seven entries, packed with one worker into shards of three rows."""
    root = tmp_path_factory.mktemp("packed")
    images = root / "images"
    (images / "sub").mkdir(parents=True)
    (images / "a.jpg").write_bytes(jpeg(halves(200, 120)))
    (images / "sub" / "b.png").write_bytes(saved(halves(40, 30), "PNG"))
    (images / "turned.jpg").write_bytes(rotated_jpeg(8))
    (images / "broken.jpg").write_bytes(jpeg()[:700])
    first = [
        {"image": "a.jpg", "caption": "one caption"},
        {"image": "sub/b.png", "caption": ["two", "captions"]},
        {"image": "gone.jpg", "caption": "a picture"},
        {"image": "turned.jpg", "caption": "é"},
    ]
    second = [
        {"image": str(images / "a.jpg"), "caption": "an absolute path"},
        {"image": "broken.jpg", "caption": "half a picture"},
        {"image": "sub", "caption": "a folder"},
        {"image": "bare.jpg", "caption": ""},
    ]
    (root / "coco.json").write_text(json.dumps(first))
    (root / "vg.json").write_text(json.dumps(second))
    assert main(pack_flags(root)) == 0
    return root


def pack_flags(root: Path) -> list[str]:
    lists = ("--annotations", root / "coco.json", root / "vg.json")
    sizes = ("--image-size", 64, "--shard-size", 3, "--processes", 1)
    return [str(flag) for flag in ("pack", *lists, "--images", root / "images", "--out", root / "out", *sizes)]


def test_pack_accounts_for_every_entry(packed: Path) -> None:
    """Good entries in order with their captions; a missing, broken or impossible file is a counted failure."""
    stored = samples(packed / "out")
    assert {row: meta["captions"] for row, (_, meta) in stored.items()} == {
        0: ["one caption"],
        1: ["two", "captions"],
        3: ["é"],
        4: ["an absolute path"],
    }
    assert failures(packed / "out") == {
        2: "missing_file",
        5: "truncated_image",
        6: "unreadable_file",
        7: "empty_caption",
    }
    assert [Image.open(io.BytesIO(stored[row][0].image)).size for row in (0, 1, 3)] == [(107, 64), (40, 30), (107, 64)]
    assert stored[1][1]["url"] == "sub/b.png"
    report = json.loads((packed / "out" / "report.json").read_text())
    assert (report["listed"], report["kept"], sum(report["failed"].values())) == (8, 4, 4)


def test_pack_resumes_where_it_was(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A shard whose record is gone is made again, to the same bytes; the others are not touched."""
    shards = packed / "out" / "shards"
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(shards.glob("*.tar"))}
    (shards / "coco-00001.json").unlink()
    assert main(pack_flags(packed)) == 0
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(shards.glob("*.tar"))}
    assert [name for name in before if before[name] != after[name]] == ["coco-00001.tar"]
    assert after["coco-00001.tar"][1] == before["coco-00001.tar"][1]
    assert "3 rows in" in capsys.readouterr().out


def test_verify_and_status_report_what_is_there(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(packed / "out")
    assert main(["verify", out, "--processes", "1", "--sample", "0.5", "--seed", "1"]) == 0
    printed = capsys.readouterr().out
    assert "of 4 images (seed 1)" in printed and "3 shards, 4 samples, 0 problems; wrote" in printed
    assert main(["status", out]) == 0
    printed = capsys.readouterr().out
    assert "pack of coco" in printed and "3 of 3 shards" in printed and "missing_file" in printed


def test_verify_exits_1_and_names_what_is_wrong(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flipped byte and a foreign file: both on the screen, no manifest unless --keep-going, exit 1 either way."""
    shards = packed / "out" / "shards"
    tar = shards / "coco-00000.tar"
    good = tar.read_bytes()
    manifest = packed / "out" / "manifest.parquet"
    manifest.unlink(missing_ok=True)
    try:
        tar.write_bytes(good[:700] + bytes([good[700] ^ 1]) + good[701:])
        (shards / "foreign.txt").write_text("x")
        assert main(["verify", str(packed / "out"), "--processes", "1"]) == 1
        printed = capsys.readouterr().out
        assert "wrong: coco-00000.tar: coco-000000000: image bytes differ from their sha256" in printed
        assert (
            "shards/foreign.txt: no shard, and not written by data_prep" in printed
            and "no manifest was written" in printed
        )
        assert not manifest.exists()
        assert main(["verify", str(packed / "out"), "--processes", "1", "--keep-going"]) == 1
        assert [row["path"] for row in read_manifest(manifest)] == ["shards/coco-00001.tar", "shards/coco-00002.tar"]
    finally:
        tar.write_bytes(good)
        (shards / "foreign.txt").unlink()


MISTAKES: dict[str, tuple[list[str], str, str]] = {
    "no command": ([], "the following arguments are required: COMMAND", "see data_prep --help"),
    "unknown command": (["downlaod"], "invalid choice: 'downlaod'", "did you mean download?"),
    "unknown flag": (
        ["download", "--urls", "x.tsv", "--out", "x", "--imagesize", "3"],
        "unrecognized arguments: --imagesize 3",
        "did you mean --image-size instead of --imagesize?",
    ),
    "shortened flag": (["verify", "x", "--keep"], "unrecognized arguments: --keep", "did you mean --keep-going"),
    "missing flag": (["pack", "--out", "x"], "required: --annotations, --images", "see data_prep pack --help"),
    "no number": (["verify", "x", "--sample", "half"], "'half' is not a number", "see data_prep verify --help"),
    "out of range": (["verify", "x", "--sample", "2"], "2 is not between 0 and 1", "--help"),
    "missing list": (["download", "--urls", "{dir}/no.tsv", "--out", "{dir}/o"], "file not found", "--urls"),
    "unknown format": (["download", "--urls", "{dir}/list.doc", "--out", "{dir}/o"], "a list ends in .tsv", "rename"),
    "unknown column": (
        ["download", "--urls", "{dir}/list.tsv", "--out", "{dir}/o", "--caption-col", "captoin"],
        "has no column 'captoin'",
        "did you mean caption?",
    ),
    "empty list": (
        ["download", "--urls", "{dir}/none.tsv", "--out", "{dir}/o"],
        "the list has no rows",
        "at least one",
    ),
    "impatient watchdog": (
        ["download", "--urls", "{dir}/list.tsv", "--out", "{dir}/o", "--stall-timeout", "5"],
        "--stall-timeout 5 is shorter than one image may take",
        "lower --image-timeout",
    ),
    "bad source": (
        ["download", "--urls", "{dir}/list.tsv", "--out", "{dir}/o", "--source", "../x"],
        "--source '../x' is not a name",
        "lower-case letters",
    ),
    "missing images": (
        ["pack", "--annotations", "{dir}/list.tsv", "--images", "{dir}/no", "--out", "{dir}/o"],
        "folder or zip of images not found",
        "--images",
    ),
    "missing annotations": (
        ["pack", "--annotations", "{dir}/no.json", "--images", "{dir}", "--out", "{dir}/o"],
        "file not found",
        "--annotations",
    ),
    "not annotations": (
        ["pack", "--annotations", "{dir}/list.doc", "--images", "{dir}", "--out", "{dir}/o"],
        "is not a JSON list",
        "it should be",
    ),
    "not a folder of shards": (["verify", "{dir}"], "holds no shards/", "--out folder"),
    "no job yet": (["status", "{dir}"], "is not the folder of a download or pack", "--out folder"),
    "a file where the folder should be": (
        ["download", "--urls", "{dir}/list.tsv", "--out", "{dir}/list.tsv"],
        "cannot create",
        "another --out",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_ends_in_error_and_hint(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, one error line, one hint line, no traceback, and nothing left behind."""
    (tmp_path / "list.tsv").write_text("url\tcaption\nhttp://127.0.0.1/x.jpg\ty\n")
    (tmp_path / "none.tsv").write_text("url\tcaption\n")
    (tmp_path / "list.doc").write_text("http://127.0.0.1/x.jpg\n")
    flags, message, hint = MISTAKES[name]
    assert main([flag.replace("{dir}", str(tmp_path)) for flag in flags]) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if not line.startswith("read ")]
    assert len(lines) == 2 and lines[0].startswith("error: ") and lines[1].startswith("hint: "), error
    assert message in lines[0] and hint in lines[1], error
    assert not (tmp_path / "o" / "job.json").exists()


@pytest.mark.parametrize(
    "words", [["verify", "x", "--sample"], ["verify", "x"], ["pack", "--outt"], ["status"], ["sources", "--json"], []]
)
def test_a_word_of_the_command_line_is_shown_escaped_and_cut(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong value, an argument too many, a path longer than a path can be, a command that is none."""
    assert main([*words, "\x1b[2J\nerror: forged " + "x" * 5000]) == 2
    shown = capsys.readouterr().err
    lines = shown.splitlines()
    assert lines[0].startswith("error: ") and lines[1].startswith("hint: ") and len(lines) == 2
    assert "\x1b" not in shown and "x" * 201 not in shown


def test_a_report_shows_no_control_characters(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A record of a shard comes with the folder: its reasons stand on the screen as text, on their own line."""
    record = packed / "out" / "shards" / "coco-00000.json"
    before = record.read_text()
    fields = json.loads(before)
    fields["failed"] = {"\x1b[2J\nleft\u202e": sum(fields["failed"].values()) or 1}
    record.write_text(json.dumps(fields))
    try:
        main(["status", str(packed / "out")])
    finally:
        record.write_text(before)
    shown = capsys.readouterr().out
    assert r"\x1b[2J\nleft\u202e" in shown and not {"\x1b", "\u202e"} & set(shown)


def test_a_word_that_is_not_utf8_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of Latin-1 bytes, as the operating system hands it over: an error, not a failure deep in Arrow."""
    assert main(["verify", os.fsdecode(b"bilder_\xe4")]) == 2
    shown = capsys.readouterr().err
    assert "error: bilder_\\udce4 holds bytes that are not UTF-8\nhint: rename it" in shown


def test_debug_shows_where_an_error_was_raised(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "/nowhere/at/all", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_folder_in_use_is_refused(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two commands on one folder would replace each other's files."""
    from data_prep.output.job import Folder, exclusive

    with exclusive(Folder(packed / "out")):
        assert main(pack_flags(packed)) == 2
    assert "another data_prep is writing to" in capsys.readouterr().err


def test_a_folder_with_shards_of_unknown_origin_is_refused(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "x.tar").write_bytes(b"x")
    assert main([str(tmp_path) if flag == str(packed / "out") else flag for flag in pack_flags(packed)]) == 2
    assert "job.json is missing" in capsys.readouterr().err


def test_the_package_runs_without_torch_and_the_rest() -> None:
    """Download nodes have no torch; nor may anything but a child process import img2dataset."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'albef', 'pipeline', 'img2dataset', 'webdataset']));"
        "import data_prep.cli; print(data_prep.cli.build_parser()[0].prog)"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.stdout.strip() == "data_prep", process.stderr


def test_a_full_disk_is_an_error_wherever_it_is(packed: Path, tmp_path: Path) -> None:
    """Files may grow to 2,000 bytes: no shard fits. Where stderr is on a full disk, too, the exit code is still 2; and
    an answer that stdout cannot take is an error."""
    words = [*pack_flags(packed), "--out", str(tmp_path / "out")]
    command = f"{sys.executable} -m data_prep {shlex.join(words)}"
    limited = ["bash", "-c", f"ulimit -f 2; exec {command}"]
    done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "error: " in done.stderr and "File too large" in done.stderr and "same command again" in done.stderr
    with open("/dev/full", "w") as full:
        assert subprocess.run(limited, cwd=ROOT, stderr=full, timeout=120).returncode == 2
        words = [sys.executable, "-m", "data_prep", "sources"]
        done = subprocess.run(words, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: No space left on device")
