"""Reading manifests: what is in them, and a clear error for everything that can be wrong with one."""

from __future__ import annotations

import contextlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from albef.errors import DataError
from pipeline.data.corpus.manifest import Manifest, read_manifest
from tests.support.shards import write_corpus, write_rows


def damaged(path: Path, /, **changes: object) -> Path:
    """The manifest at `path` with columns of its first shard changed (None drops the column)."""
    rows = pq.read_table(path).to_pylist()
    for name, value in changes.items():
        if value is None:
            for row in rows:
                del row[name]
        else:
            rows[0][name] = value
    write_rows(path, rows)
    return path


def test_samples_are_numbered_through_the_shards(tmp_path):
    """Shards of 3, 1 and 4: sample 5 is the second of the last shard, at its place in the tar."""
    path = write_corpus(tmp_path, [3, 1, 4])
    manifest = read_manifest(path)
    rows = pq.read_table(path).to_pylist()
    assert manifest.num_samples == 8
    assert manifest.shard_sizes.tolist() == [3, 1, 4]
    sample = manifest.sample(5)
    assert sample.path == str(tmp_path / "shard_00002.tar")
    assert (sample.offset, sample.length) == (rows[2]["offsets"][1], rows[2]["lengths"][1])
    assert sample.key == sample.name == "000000005"
    assert manifest.names(np.arange(8)) == [f"{number:09d}" for number in range(8)]


def test_a_shard_without_samples_is_no_contradiction(tmp_path):
    """Every row of it failed, or was filtered: it is checked like the others, first, between and last."""
    manifest = read_manifest(write_corpus(tmp_path, [0, 2, 0, 1, 0]))
    manifest.check()
    assert manifest.names(np.arange(3)) == ["000000000", "000000001", "000000002"]


def test_a_folder_a_file_and_a_brace_pattern_name_manifests(tmp_path):
    """The folder, the file in it, and a pattern over two; the order of the names is the order of the samples."""
    write_corpus(tmp_path / "b0", [2])
    write_corpus(tmp_path / "b1", [3])
    assert read_manifest(tmp_path / "b0").num_samples == 2
    assert read_manifest(tmp_path / "b0" / "manifest.parquet").num_samples == 2
    assert read_manifest(f"{tmp_path}/b{{0..1}}").shard_sizes.tolist() == [2, 3]
    assert read_manifest([f"{tmp_path}/b1", f"{tmp_path}/b0"]).shard_sizes.tolist() == [3, 2]


def test_equal_keys_of_two_manifests_are_told_apart(tmp_path):
    """Downloads number their samples from zero: the source goes before the key, or the manifest's number."""
    for folder, source in (("x", "cc3m"), ("y", "sbu"), ("z", "sbu")):
        write_corpus(tmp_path / folder, [1], source=source)
    both = read_manifest([tmp_path / "x", tmp_path / "y"])
    assert both.names(np.arange(2)) == ["cc3m/000000000", "sbu/000000000"]
    assert both.sample(1).key == "000000000"
    assert read_manifest([tmp_path / "y", tmp_path / "z"]).names(np.arange(2)) == ["0/000000000", "1/000000000"]


def test_a_missing_manifest_says_what_writes_one(tmp_path):
    """No folder, an empty folder, nothing named at all, the same one twice."""
    with pytest.raises(DataError, match=r"no manifest at .*nowhere") as error:
        read_manifest(tmp_path / "nowhere")
    assert "data_prep verify" in error.value.hint
    with pytest.raises(DataError, match=r"no manifest\.parquet in"):
        read_manifest(tmp_path)
    with pytest.raises(DataError, match="no manifest was named"):
        read_manifest([])
    with pytest.raises(DataError, match="brace"):
        read_manifest("/data/{a,b")
    path = write_corpus(tmp_path, [1])
    with pytest.raises(DataError, match="named twice"):
        read_manifest([path, tmp_path])


def test_a_file_that_is_no_manifest_is_refused(tmp_path):
    """Text instead of parquet; parquet of another version; parquet without the offsets."""
    text = tmp_path / "manifest.parquet"
    text.write_text("path,source\n")
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(text)
    path = write_corpus(tmp_path / "v", [2])
    write_rows(path, pq.read_table(path).to_pylist(), version="7")
    with pytest.raises(DataError, match="version 7, this program reads version 1"):
        read_manifest(path)
    with pytest.raises(DataError, match="lacks the columns offsets"):
        read_manifest(damaged(write_corpus(tmp_path / "c", [2]), offsets=None))
    empty = tmp_path / "e" / "manifest.parquet"
    empty.parent.mkdir()
    write_rows(empty, [])
    with pytest.raises(DataError, match="lists no sample"):
        read_manifest(empty)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "gone.tar"}, "1 of 2 shards are missing: gone.tar"),
        ({"bytes": 17}, r"1 of 2 shards are of another size: shard_00000.tar \(\d+ bytes, the manifest has 17\)"),
    ],
)
def test_a_manifest_that_contradicts_the_disk_is_refused(tmp_path, changes, message):
    """With the numbers, before anything of a shard is read."""
    with pytest.raises(DataError, match=message):
        read_manifest(damaged(write_corpus(tmp_path, [2, 2]), **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": ["000000001", "000000001"]}, "used twice, '000000001' first"),
        ({"keys": ["000000000"]}, "column keys, row 1: the shard has 2 samples but another number of keys"),
        ({"offsets": [0]}, "column offsets, row 1: the shard has 2 samples but another number of offsets"),
        ({"lengths": [2**62, 2**63 - 1]}, "2 samples lie outside their shard"),
        ({"offsets": [2**63 - 1, 0]}, "outside their shard"),
        ({"keys": ["a\x1b[2J", "b"]}, r"column keys, row 1: 'a\\x1b\[2J' has control characters"),
        ({"lengths": [512, 10**9]}, r"1 samples lie outside their shard shard_00000.tar"),
        ({"offsets": [-512, 0]}, "outside their shard"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path, changes, message):
    """By the check of everything, and by the reader of the shard; each fault is named with its numbers."""
    for use in (Manifest.check, lambda manifest: manifest.sample(0)):
        manifest = read_manifest(damaged(write_corpus(tmp_path, [2, 2]), **changes))
        with pytest.raises(DataError, match=message):
            use(manifest)


def test_a_key_of_two_shards_is_found_by_the_check(tmp_path):
    """It needs every key of the manifest, which training does not wait for."""
    manifest = read_manifest(damaged(write_corpus(tmp_path, [2, 2]), keys=["000000003", "000000001"]))
    with pytest.raises(DataError, match="used twice, '000000003' first"):
        manifest.check()


@pytest.mark.parametrize("row_group_size", [1, 2, 5])
def test_rows_are_read_by_the_group_for_any_group_size(tmp_path, row_group_size):
    """One shard a group, as data_prep writes, or several: tarfile finds samples there; other groups stay unread."""
    path = write_corpus(tmp_path, [3, 1, 4, 2, 5])
    pq.write_table(pq.read_table(path), path, row_group_size=row_group_size)
    manifest = read_manifest(path)
    for index in (5, 14, 0, 3):
        sample = manifest.sample(index)
        with tarfile.open(sample.path) as tar:
            assert tar.getmember(f"{sample.key}.jpg").offset == sample.offset
        assert sample.key == f"{index:09d}"
    assert len(read_manifest(path).files[0]._rows) == 0
    assert len(manifest.files[0]._rows) == {1: 4, 2: 5, 5: 5}[row_group_size]
    assert [ref.key for ref in manifest.locate(np.array([9, 2, 9, 4]))] == ["000000009", "000000002"] + [
        "000000009",
        "000000004",
    ]


def altered(path: Path, name: str, values: list, kind: pa.DataType) -> Path:
    """The manifest with a column of another type, as another tool might write it."""
    table = pq.read_table(path)
    place = table.column_names.index(name)
    pq.write_table(table.set_column(place, pa.field(name, kind), pa.array(values, kind)), path)
    return path


NAMES = ["shard_00000.tar", "shard_00001.tar"]
KEYS = [["000000000", "000000001"], ["000000002", "000000003"]]


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("path", NAMES, pa.large_string()),
        ("path", NAMES, pa.dictionary(pa.int8(), pa.string())),
        ("source", ["x", "x"], pa.dictionary(pa.int32(), pa.large_string())),
        ("num_samples", [2, 2], pa.int32()),
        ("num_samples", [2, 2], pa.uint8()),
        ("keys", KEYS, pa.large_list(pa.large_string())),
        ("keys", KEYS, pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        ("keys", KEYS, pa.list_(pa.string(), 2)),
    ],
)
def test_other_types_are_read_where_nothing_is_lost(tmp_path: Path, name: str, values: list, kind: pa.DataType) -> None:
    """The samples are the same as with the contract's types."""
    manifest = read_manifest(altered(write_corpus(tmp_path, [2, 2]), name, values, kind))
    manifest.check()
    assert manifest.names(np.arange(4)) == [f"{number:09d}" for number in range(4)]


@pytest.mark.parametrize(
    ("name", "values", "kind", "message"),
    [
        ("path", [1, 2], pa.int64(), "column path: holds int64 instead of texts"),
        ("path", [None, None], pa.null(), "column path: holds null instead of texts"),
        ("path", [NAMES[0], None], pa.string(), "column path, row 2: is null"),
        ("path", [b"x", b"\xff"], pa.binary(), "column path: holds binary instead of texts"),
        ("path", [NAMES[0], NAMES[0]], pa.string(), "column path, row 2: 'shard_00000.tar' is that of row 1 too"),
        ("path", [NAMES[0], ""], pa.string(), "column path, row 2: '' names no file"),
        ("path", [NAMES[0], "a\0b"], pa.string(), "column path, row 2: 'a.*b' has control characters"),
        ("path", [NAMES[0], "a\nerror: b"], pa.string(), "column path, row 2: 'a.*nerror: b' has control characters"),
        ("path", [NAMES[0], "x" * 100_000], pa.string(), "1 of 2 shards are missing: x{57}\\.\\.\\."),
        ("source", ["x", "\x1b[2J"], pa.string(), "column source, row 2: .* has control characters"),
        ("num_samples", ["2", "2"], pa.string(), "column num_samples: holds string instead of whole numbers"),
        ("num_samples", [2.0, 2.0], pa.float64(), "column num_samples: holds double instead of whole numbers"),
        ("num_samples", [2, None], pa.int64(), "column num_samples, row 2: is null"),
        ("num_samples", [2, -2], pa.int64(), "column num_samples, row 2: -2 is negative"),
        ("num_samples", [2, 10**12], pa.int64(), "column num_samples, row 2: 1000000000000 samples do not fit"),
        ("num_samples", [2, 3], pa.int64(), "column keys, row 2: the shard has 3 samples but another number of keys"),
        ("bytes", [True, False], pa.bool_(), "column bytes: holds bool instead of whole numbers"),
        ("bytes", [2**63 - 1, 1], pa.int64(), "shards are of another size: shard_00000.tar"),
        ("bytes", [2**63, 1], pa.uint64(), "column bytes, row 1: is no number of 64 bits"),
        ("keys_sha256", [1, 2], pa.int64(), "column keys_sha256: holds int64 instead of texts"),
        ("keys", ["a", "b"], pa.string(), "column keys: holds string instead of lists"),
        ("keys", [[1, 2], [3, 4]], pa.list_(pa.int64()), "column keys: holds int64 instead of texts"),
        ("keys", [KEYS[0], [None, "b"]], pa.list_(pa.string()), "column keys, row 2: is null"),
        ("keys", [KEYS[0], None], pa.list_(pa.string()), "column keys, row"),
        ("offsets", [["0", "1"], ["2", "3"]], pa.list_(pa.string()), "column offsets: holds string instead of whole"),
        ("offsets", [[[0], [1]], [[2], [3]]], pa.list_(pa.list_(pa.int64())), "instead of whole numbers"),
        ("lengths", [[512.0, 512.0]] * 2, pa.list_(pa.float64()), "column lengths: holds double"),
        ("lengths", [[512, None]] * 2, pa.list_(pa.int64()), "column lengths, row 1: is null"),
    ],
)
def test_a_column_of_another_kind_is_named_with_its_row(
    tmp_path: Path, name: str, values: list, kind: pa.DataType, message: str
) -> None:
    """By reading the manifest or, of single samples, by the check; the message stays short."""
    path = write_corpus(tmp_path, [2, 2])
    table = pq.read_table(path)
    if name not in table.column_names:
        pq.write_table(table.append_column(name, pa.array([None, None], pa.string())), path)
    with pytest.raises(DataError, match=message) as error:
        read_manifest(altered(path, name, values, kind)).check()
    assert str(path) in error.value.message and len(error.value.message.replace(str(path), "")) < 300


def test_text_that_is_no_utf8_is_named_with_its_row(tmp_path: Path) -> None:
    """Parquet does not promise that its strings are."""
    path = write_corpus(tmp_path, [2, 2])
    path.write_bytes(path.read_bytes().replace(b"000000003", b"00000000\xff"))
    with pytest.raises(DataError, match="column keys, row 2: is no UTF-8"):
        read_manifest(path).check()


def test_a_file_that_is_damaged_or_another_is_refused(tmp_path: Path) -> None:
    """Cut short, a CSV with the name, a folder's name that is too long, a version that is no text, single bits flipped.

    For any flipped bit: a DataError, or the same shards.
    """
    path = write_corpus(tmp_path, [2, 2])
    good = path.read_bytes()
    for data in (good[:-10], good[: len(good) // 2], b"PAR1", b"PARE" + good[4:-4] + b"PARE", b"path,source\n", b""):
        path.write_bytes(data)
        with pytest.raises(DataError, match="cannot be read"):
            read_manifest(path)
    for name in ("x" * 5000, "a\0b", "{0..99999999}"):
        with pytest.raises(DataError) as error:
            read_manifest(f"{tmp_path}/{name}")
        assert len(error.value.message) < 300
    table = pq.read_table(io.BytesIO(good))
    pq.write_table(table.replace_schema_metadata({b"albef_manifest_version": b"\xff"}), path)
    with pytest.raises(DataError, match="of version"):
        read_manifest(path)
    for place in range(0, len(good), 101):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x41]) + good[place + 1 :])
        with contextlib.suppress(DataError):
            manifest = read_manifest(path)
            manifest.check()
            assert manifest.num_samples == 4
