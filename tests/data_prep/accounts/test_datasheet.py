"""`datasheet.json`: every listed row is kept, failed, filtered or left, once; or it is refused with the numbers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.accounts.datasheet import write_datasheet
from data_prep.errors import AccountingError, InputError
from data_prep.output.job import Folder, ImageSettings, Job, write_job
from data_prep.shards.manifest import SCHEMA
from tests.support.data_prep_runs import failures, samples
from tests.support.made_shards import copy, members, rewrite, verify, whole

__all__ = ["copy", "whole"]  # fixtures: three packed shards of four rows, one row of each a failure

COUNTS = {"failures": "reason", "supersedes": "reason", "filtered": "rule"}
OPTIONAL = [
    pa.field(name, pa.list_(pa.struct([(COUNTS[name], pa.string()), ("count", pa.int64())]))) for name in COUNTS
]
OPTIONAL += [pa.field("keys_sha256", pa.string())]


def shard(path: str, listed: int, kept: int, created: str = "2026-01-02T00:00:00+00:00", **more: Any) -> dict[str, Any]:
    """A row of a manifest; `failures`, `supersedes`, `filtered` as {name: count}."""
    row = {
        "path": path,
        "source": "web",
        "num_samples": kept,
        "bytes": 1000,
        "sha256": hashlib.sha256(path.encode()).hexdigest(),
        "keys": [],
        "offsets": [],
        "lengths": [],
        "listed": listed,
        "yield": kept / listed,
        "tools": '{"python": "3.11"}',
        "arguments": '{"command": "test", "list": "web.tsv", "inputs_sha256": "abc"}',
        "created": created,
        **more,
    }
    for column, name in COUNTS.items():
        row[column] = [{name: key, "count": count} for key, count in more.get(column, {}).items()]
    return row


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    fields = [field for field in OPTIONAL if field.name not in SCHEMA.names]
    schema = pa.schema([*SCHEMA, *fields], metadata=SCHEMA.metadata)
    with pq.ParquetWriter(folder / "manifest.parquet", schema) as writer:
        for row in rows:
            writer.write_table(pa.Table.from_pylist([row], schema=schema))
    return folder


def begin(folder: Path, num_rows: int) -> None:
    images = ImageSettings(image_size=64)
    job = Job(kind="download", source="web", inputs_sha256="abc", shard_size=10, images=images, num_rows=num_rows)
    write_job(Folder(folder), job)


def sheet(folder: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((folder / "datasheet.json").read_text())
    return fields


def test_verify_writes_what_the_files_themselves_say(copy: Path) -> None:
    """Counted from the tars' members and the lines of failures/, not from the records the manifest is made of."""
    assert verify(copy).problems == []
    recorded = sheet(copy)
    assert recorded["kept"] == len(samples(copy)) == 9
    assert recorded["failed"] == {"http_404": len(failures(copy))} == {"http_404": 3}
    assert (recorded["listed"], recorded["left"], recorded["filtered"], recorded["complete"]) == (12, 0, {}, True)
    tars = sorted((copy / "shards").glob("*.tar"))
    assert recorded["bytes"] == sum(tar.stat().st_size for tar in tars) and recorded["shards"] == len(tars)
    hashes = "".join(f"{hashlib.sha256(tar.read_bytes()).hexdigest()}\n" for tar in tars)
    assert recorded["shards_sha256"] == hashlib.sha256(hashes.encode()).hexdigest()
    assert recorded["manifest_sha256"] == hashlib.sha256((copy / "manifest.parquet").read_bytes()).hexdigest()
    assert [use["shards"] for use in recorded["tools"]] == [3] and "pillow" in recorded["tools"][0]["value"]
    assert recorded["sources"]["made"]["listed"] == 12


def test_a_shard_left_out_is_counted_as_left(copy: Path) -> None:
    """With --keep-going the manifest names two of three shards; the third's four rows are neither kept nor failed."""
    rewrite(copy / "shards" / "made-00001.tar", members(copy / "shards" / "made-00001.tar")[:-2])
    assert verify(copy, keep_going=True).manifest
    recorded = sheet(copy)
    assert (recorded["listed"], recorded["kept"], recorded["failed"], recorded["left"]) == (12, 6, {"http_404": 2}, 4)
    assert recorded["complete"] is False


def test_it_goes_when_the_manifest_goes(copy: Path) -> None:
    """A datasheet without its manifest would be read as if it were true."""
    verify(copy)
    (copy / "shards" / "made-00001.tar").unlink()
    verify(copy)
    assert not (copy / "datasheet.json").exists() and (copy / "datasheet.json.withdrawn").exists()


def test_retries_and_filters_are_added_up_by_hand(tmp_path: Path) -> None:
    """20 rows: 12 + 6 failed; 5 of the failures retried, 3 of them kept; filters took 4 of what was kept."""
    first = shard(
        "shards/web-00000.tar", 10, 5, failures={"timed_out": 3, "http_404": 1}, filtered={"caption_words": 1}
    )
    second = shard("shards/web-00001.tar", 10, 6, failures={"timed_out": 2}, filtered={"duplicate": 2})
    retried = shard(
        "retry-01/shards/web-retry01-00000.tar",
        5,
        2,
        created="2026-03-01T00:00:00+00:00",
        failures={"timed_out": 1, "http_404": 1},
        filtered={"duplicate": 1},
        supersedes={"timed_out": 5},
    )
    begin(tmp_path, 20)
    write_datasheet(write(tmp_path, [first, second, retried]))
    recorded = sheet(tmp_path)
    assert (recorded["listed"], recorded["kept"], recorded["left"]) == (20, 5 + 6 + 2, 0)
    assert recorded["failed"] == {"timed_out": 3 + 2 - 5 + 1, "http_404": 2}
    assert recorded["filtered"] == {"caption_words": 1, "duplicate": 3}
    assert recorded["made"] == {"first_shard": "2026-01-02T00:00:00+00:00", "last_shard": "2026-03-01T00:00:00+00:00"}
    assert recorded["sources"]["web"]["lists"] == [{"names": "web.tsv", "sha256": "abc"}]


def test_a_retry_stays_counted_when_its_first_shard_is_left_out(tmp_path: Path) -> None:
    """--keep-going without shard 1, two of whose failures were retried: 8 of its 10 rows are left."""
    first = shard("shards/web-00000.tar", 10, 10)
    retried = shard(
        "retry-01/shards/web-retry01-00000.tar", 2, 1, failures={"http_404": 1}, supersedes={"timed_out": 2}
    )
    begin(tmp_path, 20)
    write_datasheet(write(tmp_path, [first, retried]))
    recorded = sheet(tmp_path)
    assert (recorded["listed"], recorded["kept"], recorded["failed"], recorded["left"]) == (20, 11, {"http_404": 1}, 8)


def test_a_known_source_has_its_licence(tmp_path: Path) -> None:
    rows = [shard("a.tar", 7, 7, source="cc12m"), shard("b.tar", 5, 5, source="mine")]
    write_datasheet(write(tmp_path, rows))
    sources = sheet(tmp_path)["sources"]
    assert sources["cc12m"]["licence"] and "licence" not in sources["mine"]


def test_sources_add_up_each_and_together(tmp_path: Path) -> None:
    """A corpus of two sources without a job; its caller knows of rows that are left in one of them."""
    rows = [
        shard("../a/shards/a-00000.tar", 7, 7, source="a"),
        shard("../b/shards/b-00000.tar", 5, 3, source="b", failures={"http_404": 2}),
    ]
    write_datasheet(write(tmp_path, rows), left={"b": 4})
    recorded = sheet(tmp_path)
    assert [(name, recorded["sources"][name]["listed"]) for name in ("a", "b")] == [("a", 7), ("b", 9)]
    assert (recorded["listed"], recorded["kept"], recorded["left"], recorded["complete"]) == (16, 10, 4, False)


WRONG: dict[str, tuple[list[dict[str, Any]], int, str]] = {
    "a shard that lost a row": (
        [shard("shards/web-00000.tar", 10, 7, failures={"http_404": 2})],
        10,
        "shards/web-00000.tar: 7 kept + 2 failed + 0 filtered are not 10 listed",
    ),
    "a shard that is named twice": (
        [shard("shards/web-00000.tar", 10, 10), shard("old/web-00000.tar", 10, 10)],
        10,
        "source web: 20 kept + 0 failed + 0 filtered + 0 left are 20, but 10 rows were listed",
    ),
    "a shard of another list": (
        [shard("shards/web-00000.tar", 10, 10), shard("shards/web-00009.tar", 10, 10)],
        20,
        "source web: 20 kept + 0 failed + 0 filtered + 10 left are 30, but 20 rows were listed",
    ),
    "a retry of more than had failed": (
        [
            shard("shards/web-00000.tar", 10, 9, failures={"timed_out": 1}),
            shard("retry-01/shards/web-retry01-00000.tar", 2, 2, supersedes={"timed_out": 2}),
        ],
        10,
        "source web: retries replace 1 failures more than there were of timed_out",
    ),
    "a retry that lost a row": (
        [
            shard("shards/web-00000.tar", 10, 8, failures={"timed_out": 2}),
            shard("retry-01/shards/web-retry01-00000.tar", 1, 1, supersedes={"timed_out": 2}),
        ],
        10,
        "web-retry01-00000.tar: replaces 2 failures by 1 rows",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_add_up_is_refused_with_the_numbers(tmp_path: Path, name: str) -> None:
    rows, num_rows, message = WRONG[name]
    begin(tmp_path, num_rows)
    with pytest.raises(AccountingError) as refused:
        write_datasheet(write(tmp_path, rows))
    assert message in refused.value.message
    assert not (tmp_path / "datasheet.json").exists()


def test_a_job_that_lists_other_rows_withdraws_the_manifest(copy: Path) -> None:
    """Each shard is fine by itself; the job listed 13 rows, and nobody knows what became of the last."""
    verify(copy)
    record = copy / "shards" / "made-00002.json"
    fields = json.loads(record.read_text())
    record.write_text(json.dumps(fields | {"source": "other"}))
    with pytest.raises(AccountingError, match=r"source made: 6 kept .* are 8, but 12 rows were listed"):
        verify(copy)
    assert not (copy / "manifest.parquet").exists() and not (copy / "datasheet.json").exists()


def test_no_manifest_no_datasheet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no manifest\.parquet in"):
        write_datasheet(tmp_path)
