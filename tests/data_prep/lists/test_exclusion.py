"""Domains and images that are left out: what the lists may contain, and which rows they exclude."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest

from data_prep.cli import main
from data_prep.errors import InputError
from data_prep.lists.exclusion import (
    Exclusions,
    excluded_domain,
    excluded_hash,
    kept_exclusions,
    read_domains,
    read_hashes,
    without_excluded,
)
from data_prep.lists.row_list import ListedImage
from data_prep.output.job import Folder
from data_prep.shards.writer import read_record, record_path, write_json
from tests.data_prep.stages.test_retry import make_folder


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.com.", "example.com"),
        ("a.b.example.com", "example.com"),
        ("notexample.com", None),
        ("example.com.org", None),
        ("com", None),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("shop.pictures.example", "pictures.example"),
        ("pictures.example", "pictures.example"),
        ("127.0.0.9", "127.0.0.9"),
        ("7.0.0.9", None),
    ],
)
def test_a_domain_takes_what_lies_under_it(tmp_path: Path, host: str, found: str | None) -> None:
    """And nothing that merely ends in the same letters."""
    text = "# not these\nexample.com  # sold\n\n*.pictures.example\n.Bücher.example\n127.0.0.9\n"
    assert excluded_domain(host, read_domains(written(tmp_path, "domains", text))) == found


@pytest.mark.parametrize("line", ["http://example.com/", "example.com/a", "exa mple.com", "*.*.com", "example..com"])
def test_a_line_that_is_no_domain_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match=r"line 2: .* is not a domain"):
        read_domains(written(tmp_path, "domains", f"good.example\n{line}\n"))


def test_an_image_is_known_by_either_hash_of_its_bytes(tmp_path: Path) -> None:
    """As sha256sum and md5sum print them, in either case; one bit more is another image."""
    lines = [hashlib.sha256(b"one").hexdigest() + "  one.jpg", hashlib.md5(b"two").hexdigest().upper()]
    hashes = read_hashes(written(tmp_path, "hashes", "\n".join(lines)))
    assert excluded_hash(b"one", hashes) and excluded_hash(b"two", hashes)
    assert excluded_hash(b"three", hashes) is None
    for line in ("one.jpg", "abc123", hashlib.sha1(b"one").hexdigest()):
        with pytest.raises(InputError, match=r"line 1: .* does not begin with a SHA-256 or MD5"):
            read_hashes(written(tmp_path, f"bad-{len(line)}", line))


def test_rows_of_excluded_domains_are_rejected_and_others_left_as_they_are(tmp_path: Path) -> None:
    images = [
        ListedImage("http://a.bad.example/1.jpg", ["x"]),
        ListedImage("https://bad.example:8443/2.jpg", ["x"], id="7"),
        ListedImage("http://good.example/bad.example.jpg", ["x"]),
        ListedImage("", [], "empty_url: no URL"),
    ]
    marked = list(without_excluded(images, Exclusions(domains=written(tmp_path, "domains", "bad.example\n"))))
    why = "excluded_domain: bad.example"
    assert marked == [*(dataclasses.replace(image, rejected=why) for image in images[:2]), *images[2:]]
    assert list(without_excluded(images, Exclusions())) == images


def test_what_is_excluded_makes_the_job_and_not_how_it_is_written(tmp_path: Path) -> None:
    """Order, comments and case change nothing; one domain more does. The copy in the folder has the same content."""
    one = Exclusions(written(tmp_path, "a", "x.example\ny.example\n"), written(tmp_path, "h", "0" * 32))
    same = Exclusions(
        written(tmp_path, "b", "# ours\nY.example\n*.x.example\n"), written(tmp_path, "i", "0" * 32 + " z")
    )
    more = Exclusions(written(tmp_path, "c", "x.example\ny.example\nz.example\n"), one.hashes)
    assert one.identity() == same.identity() != more.identity()
    assert Exclusions().identity() == {}
    kept = one.kept_in(tmp_path)
    assert kept == kept_exclusions(tmp_path) and kept.identity() == one.identity()


def test_a_retry_without_the_lists_of_its_download_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise a retry could fetch what the download left out."""
    folder, job = make_folder(tmp_path / "out", ["timed_out: x"])
    lists = Exclusions(domains=written(tmp_path, "domains", "bad.example\n"))
    path = record_path(Folder(folder.root), job.shard_name(0))
    fields = dataclasses.asdict(read_record(path)) | {"version": 1, "arguments": lists.identity()}
    write_json(path, fields)
    assert main(["retry", str(folder.root)]) == 2
    assert "does not hold the lists that the download was made with" in capsys.readouterr().err
