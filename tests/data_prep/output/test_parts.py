"""`download --part I/N`: together the parts give what the uncut job gives, after any interruption of one of them."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from base.errors import UsageError
from data_prep.cli import main
from data_prep.lists.row_list import ListedImage, read_shard_rows, write_rows
from data_prep.output.parts import WHOLE, Part, parse_part
from data_prep.shards.manifest import read_manifest
from tests.support.data_prep_runs import kill_all, run, start, wait_for
from tests.support.hostile_images import jpeg
from tests.support.image_server import ImageServer, Reply
from tests.support.job_processes import family

NUM_ROWS, SHARD_SIZE = 58, 8  # eight shards, the last of two rows
FLAGS = (
    *("--allow-private-addresses", "--image-size", 64, "--shard-size", SHARD_SIZE),
    *("--processes", 1, "--threads", 4, "--retries", 0),
)


@pytest.mark.parametrize("num_shards", [0, 1, 5, 12])
@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_every_shard_is_in_exactly_one_part(num_shards: int, count: int) -> None:
    """However many there are of either; and the parts differ by one shard at most."""
    shares = [list(Part(number, count).shards(num_shards)) for number in range(1, count + 1)]
    assert sorted(shard for share in shares for shard in share) == list(range(num_shards))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3", "1/3/3", ""])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a part"):
        parse_part(text)


def test_a_part_of_the_list_holds_its_rows_under_their_own_numbers(tmp_path: Path) -> None:
    """Ten rows in shards of three, cut in two: shards 0 and 2, and shards 1 and 3, as the whole list has them."""
    images = [ListedImage(f"http://a/{row}.jpg", [f"picture {row}"]) for row in range(10)]
    assert write_rows(tmp_path / "whole", images, 3, WHOLE) == 10
    for number, shards in ((1, [0, 2]), (2, [1, 3])):
        path = tmp_path / f"part{number}"
        assert write_rows(path, images, 3, Part(number, 2)) == 10
        for shard in shards:
            rows = read_shard_rows(path, shard)
            assert rows == read_shard_rows(tmp_path / "whole", shard)
            assert list(rows) == list(range(3 * shard, min(3 * shard + 3, 10)))
        with pytest.raises(ValueError):
            read_shard_rows(path, 1 - shards[0])


@pytest.fixture
def server() -> Iterator[ImageServer]:
    """A picture after 0.3 s, so that there is a middle to be killed in; every tenth is gone."""
    image = jpeg()

    def reply(path: str) -> Reply:
        return Reply(status=404) if path.endswith("7.jpg") else Reply(image, delay_s=0.3)

    with ImageServer() as server:
        server.serve_anything(reply)
        yield server


def tars(folder: Path) -> dict[str, str]:
    """sha256 of the tars that have a record."""
    paths = [path.with_suffix(".tar") for path in (folder / "shards").glob("*.json")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def status(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What `status --json` prints."""
    capsys.readouterr()
    assert main(["status", str(folder), "--json"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


@pytest.mark.slow
def test_parts_side_by_side_one_of_them_killed_make_the_shards_of_an_uncut_download(
    server: ImageServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Byte for byte, in one manifest, with every row accounted for; and no shard may be made by two processes."""
    urls = tmp_path / "list.tsv"
    lines = [f"{server.url(f'/{row:04d}.jpg')}\tpicture {row}" for row in range(NUM_ROWS)]
    urls.write_text("url\tcaption\n" + "\n".join(lines) + "\n")
    cut, uncut = tmp_path / "cut", tmp_path / "uncut"
    command = ("download", "--urls", urls, "--out", cut, *FLAGS)
    first, second = (start(*command, "--part", f"{number}/2") for number in (1, 2))
    try:
        wait_for(lambda: len(list((cut / "shards").glob("*.json"))) >= 2 if cut.exists() else None, "finished shards")
        # What a part reports is up to two seconds old.
        seen = wait_for(lambda: now if (now := status(cut, capsys))["rows_per_s"] > 0 else None, "a rate")
        assert [(part["part"], part["pid"], part["state"]) for part in seen["parts"]] == [
            ("1/2", first.pid, "making shards"),
            ("2/2", second.pid, "making shards"),
        ]
        assert 0 < seen["rows_answered"] <= seen["listed"] == NUM_ROWS and seen["rows_per_s"] > 0
        overlapping = [str(word) for word in (*command, "--part", "2/3")]  # its second shard is in either half
        assert main(overlapping) == 2
        assert "error: another data_prep is making list-0000" in capsys.readouterr().err
        kill_all(family(first.pid))
        first.communicate()
        out, err = second.communicate(timeout=200)
        assert second.returncode == 0, err
        states = [part["state"] for part in status(cut, capsys)["parts"]]
        assert states[0] in ("making shards", "silent") and states[1] == "finished"  # silent once 20 s have gone by
        assert "part 2/2 is done" in out and not (cut / "manifest.parquet").exists()
    finally:
        kill_all(family(first.pid) + family(second.pid))
    before = tars(cut)
    assert {f"list-{shard:05d}.tar" for shard in (1, 3, 5, 7)} <= set(before) and len(before) < 8
    assert main(["verify", str(cut)]) == 1
    assert "missing: run the same command again" in capsys.readouterr().out
    assert json.loads((cut / "report.json").read_text())["complete"] is False

    again = run(*command, "--part", "1/2")
    assert again.returncode == 0, again.stderr
    assert {name: tars(cut)[name] for name in before} == before
    assert main(["verify", str(cut)]) == 0
    assert run("download", "--urls", urls, "--out", uncut, *FLAGS).returncode == 0
    assert tars(cut) == tars(uncut)
    cut_rows, uncut_rows = (read_manifest(folder / "manifest.parquet") for folder in (cut, uncut))
    for row in (*cut_rows, *uncut_rows):
        del row["created"]
    assert cut_rows == uncut_rows
    reports = [json.loads((folder / "report.json").read_text()) for folder in (cut, uncut)]
    for report in reports:
        del report["last_run"]
    assert reports[0] == reports[1]
    assert (reports[0]["listed"], reports[0]["failed"], reports[0]["left"]) == (NUM_ROWS, {"http_404": 6}, 0)


def test_a_part_without_a_shard_has_nothing_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An array of eight tasks over a list of one shard: seven end at once, and well."""
    urls = tmp_path / "short.tsv"
    urls.write_text("url\tcaption\nhttp://127.0.0.1:1/a.jpg\ta picture\n")
    assert main(["download", "--urls", str(urls), "--out", str(tmp_path / "out"), "--part", "5/8"]) == 0
    assert "0 of 0 shards" in capsys.readouterr().out


def test_a_file_system_without_locks_is_reported_and_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Lustre is, mounted without flock; no such file system is here, so its answer is simulated."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    urls = tmp_path / "short.tsv"
    urls.write_text("url\tcaption\nftp://127.0.0.1/a.jpg\ta picture\nftp://127.0.0.1/b.jpg\tb\n")
    flags = ["--out", str(tmp_path / "out"), "--shard-size", "1", "--part", "3/3"]
    assert main(["download", "--urls", str(urls), *flags]) == 0
    assert capsys.readouterr().err.count("supports no locks (Function not implemented)") == 1
