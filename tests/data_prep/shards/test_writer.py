"""Writing a shard and its record: the same bytes in any order, what the contract says, and nothing half."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.lists.row_list import ListedImage
from data_prep.output.job import Folder, write_job
from data_prep.shards.writer import FetchResult, read_record, write_shard
from tests.support.hostile_images import jpeg
from tests.support.made_shards import JOB, members, verify, whole, write

__all__ = ["whole"]  # fixtures


def test_a_shard_is_the_same_bytes_for_any_order_of_results(whole: Path, tmp_path: Path) -> None:
    """Sorted by key, no times and no owners: a shard fetched twice has one hash."""
    folder = Folder(tmp_path)
    for path in (folder.shards, folder.failures, folder.work):
        path.mkdir()
    write(folder, 0, [0, 1, 2, 3])
    assert (folder.shards / "made-00000.tar").read_bytes() == (whole / "shards" / "made-00000.tar").read_bytes()


def test_members_are_as_the_contract_says(whole: Path) -> None:
    """KEY.jpg then KEY.json, sorted; the JSON has exactly the contract's fields."""
    content = members(whole / "shards" / "made-00000.tar")
    keys = ["made-000000000", "made-000000002", "made-000000003"]
    assert [name for name, _ in content] == [f"{key}.{kind}" for key in keys for kind in ("jpg", "json")]
    assert json.loads(content[1][1]) == {
        "key": keys[0],
        "captions": ["picture 0"],
        "url": "http://a/0.jpg",
        "source": "made",
        "original_width": 90,
        "original_height": 70,
        "width": 82,
        "height": 64,
        "sha256": hashlib.sha256(content[0][1]).hexdigest(),
    }


def test_an_id_and_a_licence_are_in_the_record_where_the_list_has_them(tmp_path: Path) -> None:
    """And only there; verify takes either kind of record."""
    folder = Folder(tmp_path)
    for path in (folder.shards, folder.failures, folder.work):
        path.mkdir()
    job = replace(JOB, shard_size=2, num_rows=2)
    rows = {0: ListedImage("a.jpg", ["a"], None, "42", "CC BY 2.0"), 1: ListedImage("b.jpg", ["b"])}
    write_shard(folder, job, 0, rows, [FetchResult(row, jpeg(), None) for row in rows], {})
    with_notes, without = (
        json.loads(data) for name, data in members(folder.shards / "made-00000.tar") if "json" in name
    )
    assert (with_notes["id"], with_notes["licence"]) == ("42", "CC BY 2.0")
    assert set(with_notes) - set(without) == {"id", "licence"}
    write_job(folder, job)
    assert verify(tmp_path).problems == []


def test_a_shard_that_lost_an_answer_is_not_written(tmp_path: Path) -> None:
    """img2dataset can lose a row and exit 0; a shard with a row too few must not come into being."""
    folder = Folder(tmp_path)
    for path in (folder.shards, folder.failures, folder.work):
        path.mkdir()
    with pytest.raises(ValueError, match="results for 4 rows"):
        write(folder, 0, [0, 1, 2])
    assert not list(folder.shards.iterdir())


def test_the_writer_stores_nothing_that_verify_refuses(tmp_path: Path) -> None:
    """Captions that cleaning empties, as an older list may hold them, and more text than a record takes: counted."""
    folder = Folder(tmp_path)
    for path in (folder.shards, folder.failures, folder.work):
        path.mkdir()
    job = replace(JOB, shard_size=3, num_rows=3)
    captions = [["...", "?!"], ["a", "b" * (1 << 20)], ["a", "?!"]]
    rows = {row: ListedImage(f"{row}.jpg", texts) for row, texts in enumerate(captions)}
    record = write_shard(folder, job, 0, rows, [FetchResult(row, jpeg(), None) for row in rows], {})
    assert (record.kept, record.failed) == (1, {"empty_caption": 1, "sample_too_large": 1})
    write_job(folder, job)
    assert verify(tmp_path).problems == []


def test_records_of_another_version_are_refused(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "made-00000.json"
    path.write_text((whole / "shards" / "made-00000.json").read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(ValueError, match="another version"):
        read_record(path)


@pytest.mark.parametrize(
    "text",
    ["[" * 10**5, "[]", '{"version": 1}', "\x00", '{"version": 1, "kept": %s}' % ("9" * 5000)],
    ids=["deep", "list", "short", "zero", "digits"],
)
def test_a_record_that_is_none_is_a_value_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "made-00000.json").write_text(text)
    with pytest.raises(ValueError, match=r"made-00000\.json is not a shard record"):
        read_record(tmp_path / "made-00000.json")


def test_a_record_with_a_field_of_another_type_is_a_value_error(whole: Path, tmp_path: Path) -> None:
    good = json.loads((whole / "shards" / "made-00000.json").read_text())
    for name, value in (
        ("kept", "3"),
        ("bytes", -1),
        ("failed", {"x": None}),
        ("failed", []),
        ("sha256", 1),
        ("tools", 1),
    ):
        (tmp_path / "made-00000.json").write_text(json.dumps(good | {name: value}))
        with pytest.raises(ValueError, match="is not a shard record"):
            read_record(tmp_path / "made-00000.json")
