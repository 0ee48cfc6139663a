"""Manifests as `filter`, `report` and the datasheet read them: what breaks the contract has its column and row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.accounts.datasheet import shard_rows
from data_prep.errors import InputError
from data_prep.shards.manifest import stream_manifest
from tests.support.shards import write_corpus


def altered(path: Path, name: str, values: list[Any], kind: pa.DataType) -> Path:
    """The manifest with a column of another type."""
    table = pq.read_table(path)
    place = table.column_names.index(name)
    pq.write_table(table.set_column(place, pa.field(name, kind), pa.array(values, kind)), path)
    return path


def test_the_contract_s_types_and_their_like_are_read(tmp_path: Path) -> None:
    path = write_corpus(tmp_path, [2, 0, 1])
    rows = list(stream_manifest(path))
    assert [row["num_samples"] for row in rows] == [2, 0, 1] and rows[0]["keys_sha256"] is None
    altered(path, "path", [row["path"] for row in rows], pa.dictionary(pa.int8(), pa.large_string()))
    altered(path, "num_samples", [2, 0, 1], pa.uint8())
    assert list(stream_manifest(path)) == rows


@pytest.mark.parametrize(
    ("name", "values", "kind", "message"),
    [
        ("path", [1, 2], pa.int64(), "column path, row 1: holds 1"),
        ("path", ["a.tar", None], pa.string(), "column path, row 2: holds None"),
        ("path", ["a.tar", "\x1b[2J\n"], pa.string(), r"column path, row 2: '\\x1b\[2J\\n' has control characters"),
        ("num_samples", ["2", "2"], pa.string(), "column num_samples, row 1: holds '2'"),
        ("num_samples", [2, -1], pa.int64(), "column num_samples, row 2: holds -1"),
        ("num_samples", [2, 10**12], pa.int64(), "row 2: 1000000000000 samples, 2 keys, 2 offsets, 2 lengths"),
        ("bytes", [2**63, 1], pa.uint64(), "column bytes, row 1: holds 9223372036854775808"),
        ("yield", [float("nan"), 1.0], pa.float64(), "column yield, row 1: holds nan"),
        ("keys", [["a", "b"], ["x", None]], pa.list_(pa.string()), r"column keys, row 2: holds \['x', None\]"),
        ("keys", [["a", "b"], ["x", "\x9b\x07"]], pa.list_(pa.string()), "row 2: '.*' has control characters"),
        ("offsets", [["0", "1"], ["2", "3"]], pa.list_(pa.string()), "column offsets, row 1: holds"),
        ("lengths", [[1, 2], None], pa.list_(pa.int64()), "column lengths, row 2: holds None"),
        ("failures", ["none", "none"], pa.string(), "column failures, row 1: holds 'none'"),
    ],
)
def test_what_is_not_of_the_contract_is_named(
    tmp_path: Path, name: str, values: list[Any], kind: pa.DataType, message: str
) -> None:
    path = altered(write_corpus(tmp_path, [2, 2]), name, values, kind)
    with pytest.raises(InputError, match=message) as error:
        list(stream_manifest(path))
    assert str(path) in error.value.message and len(error.value.message.replace(str(path), "")) < 300


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    """Cut short, text with the name, a version that is no text, a column that is missing, text that is no UTF-8."""
    path = write_corpus(tmp_path, [2, 2])
    good, table = path.read_bytes(), pq.read_table(path)

    def refused(match: str) -> None:
        for read in (stream_manifest, shard_rows):
            with pytest.raises(InputError, match=match):
                list(read(path))

    for data in (good[:-10], b"path,source\n", b""):
        path.write_bytes(data)
        refused("cannot be read")
    pq.write_table(table.replace_schema_metadata({b"albef_manifest_version": b"\xff\x1b"}), path)
    refused(r"no manifest of version 1 but .*\\x1b")
    pq.write_table(table.drop_columns(["source"]), path)
    refused("lacks the columns source")
    no_text = pa.array([b"a.tar", b"\xff.tar"]).view(pa.string())
    pq.write_table(table.set_column(0, pa.field("path", pa.string()), no_text), path)
    refused("cannot be read: .*can't decode byte 0xff")
