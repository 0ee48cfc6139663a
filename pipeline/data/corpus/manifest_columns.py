"""Read a manifest's columns with the types and values that the rest relies on; an error names the row that is wrong.

A manifest may come from another tool or be damaged: texts may be dictionary-encoded or large, and counts of any width,
if nothing is lost. No count is trusted for an allocation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from albef.errors import DataError
from samples.quote import quote

TEXTS = ("path", "source", "sha256", "keys_sha256", "keys")
NULLABLE = ("keys_sha256",)
MAX_SHARDS = 1_000_000
"""Most shards in one manifest; a corpus of a hundred million samples has some ten thousand."""
MIN_SAMPLE_BYTES = 2048
"""Fewest bytes of a sample in its tar: two members, each a header and a block at least."""
MAX_SAMPLES_A_BYTE = 64
"""Most samples per byte of a manifest, generously: a distinct key, offset and length hardly compress further."""
CONTROLS = "[\\x00-\\x1f\\x7f]"
AGAIN = "write it again with `data_prep verify`"


def read_short(path: str, file: pq.ParquetFile, names: list[str]) -> pa.Table:
    """The columns with one value per shard: texts as strings, counts as int64.

    Raises: DataError naming the file, the column and the row, counted from 1.
    """
    if file.metadata.num_rows > MAX_SHARDS:
        raise DataError(f"{path} names {file.metadata.num_rows:,} shards, more than {MAX_SHARDS:,}", AGAIN)
    table = file.read(columns=names, use_threads=False)
    for name in names:
        _validate(path, name, table[name])
    columns = [_values(path, name, table[name], lambda position: position + 1) for name in names]
    found = dict(zip(names, columns, strict=True))
    for name in {"path", "source"} & found.keys():
        _refuse(path, name, found[name], pc.match_substring_regex(found[name], CONTROLS), "has control characters")
    for name in {"path"} & found.keys():
        _refuse(path, name, found[name], pc.equal(pc.utf8_length(found[name]), 0), "names no file")
        _refuse_twice(path, found[name].to_pylist())
    for name in {"num_samples", "bytes"} & found.keys():
        _refuse(path, name, found[name], pc.less(found[name], 0), "is negative")
    return pa.table(found)


def check_counts(path: str, table: pa.Table, file_bytes: int) -> None:
    """Check that no shard claims more samples than its bytes can hold, and all no more than the manifest could name.

    Raises: DataError naming the file and the row.
    """
    sizes, room = table["num_samples"], pc.divide(table["bytes"], MIN_SAMPLE_BYTES)
    _refuse(path, "num_samples", sizes, pc.greater(sizes, room), "samples do not fit into the bytes of their shard")
    total = sum(sizes.to_pylist())
    if total > MAX_SAMPLES_A_BYTE * file_bytes:
        raise DataError(f"{path}, column num_samples: a file of {file_bytes} bytes cannot name {total} samples", AGAIN)


def list_values(path: str, name: str, column: pa.ChunkedArray, first_row: int, sizes: np.ndarray) -> pa.Array:
    """The concatenated values of a column that has a list per shard.

    Args:
        column: (n,) lists of consecutive shards.
        first_row: number of the first shard, from 0.
        sizes: (n,) the number of values that each should have.
    Raises: DataError naming the file, the column and the row.
    """
    kind = column.type
    _validate(path, name, column)
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise DataError(f"{path}, column {name}: holds {quote(kind)} instead of lists", AGAIN)
    _refuse(path, name, column, pc.is_null(column), "is no list", first_row)
    wrong = np.flatnonzero(pc.list_value_length(column).to_numpy() != sizes)
    if len(wrong):
        raise DataError(
            f"{path}, column {name}, row {first_row + wrong[0] + 1}: the shard has {sizes[wrong[0]]} samples but "
            f"another number of {name}",
            f"the manifest was edited or damaged: {AGAIN}",
        )
    ends = np.cumsum(sizes)

    def row_of(position: int) -> int:
        return first_row + int(np.searchsorted(ends, position, side="right")) + 1

    values = _values(path, name, pc.list_flatten(column), row_of)
    if name == "keys":
        _refuse(path, name, values, pc.match_substring_regex(values, CONTROLS), "has control characters", row_of)
    return values.combine_chunks()


def _values(path: str, name: str, column: pa.ChunkedArray, row_of: Callable[[int], int]) -> pa.ChunkedArray:
    """A column as strings or int64, none of them null. Its offsets must be valid: `_validate`.

    Args:
        row_of: number of the row that a position in the column belongs to.
    """
    text, kind = name in TEXTS, column.type
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    fits = _is_text(inner) if text else pa.types.is_integer(inner)
    if not fits and not (pa.types.is_null(inner) and (name in NULLABLE or not len(column))):
        wanted = "texts" if text else "whole numbers"
        raise DataError(f"{path}, column {name}: holds {quote(kind)} instead of {wanted}", AGAIN)
    if name not in NULLABLE:
        _refuse(path, name, column, pc.is_null(column), "is null", row_of)
    try:
        column.validate(full=True)
        return column.cast(pa.string() if text else pa.int64())
    except pa.ArrowInvalid as error:
        bad = next((index for index in range(len(column)) if not _can_be_read(column[index], text)), 0)
        what = "is no UTF-8" if text else "is no number of 64 bits"
        raise DataError(f"{path}, column {name}, row {row_of(bad)}: {what}", AGAIN) from error


def _validate(path: str, name: str, column: pa.ChunkedArray) -> None:
    """Check the offsets of lists: Arrow does not, and a damaged file gives lists that lie outside their values."""
    try:
        column.validate()
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}, column {name}: {quote(error, 150)}", AGAIN) from error


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _can_be_read(value: pa.Scalar, text: bool) -> bool:
    try:
        found: Any = value.as_py()
    except UnicodeDecodeError:
        return False
    return found is None or text or -(2**63) <= found < 2**63


def _refuse(
    path: str, name: str, column: pa.ChunkedArray, faulty: Any, what: str, row_of: Callable[[int], int] | int = 0
) -> None:
    """Raise a DataError for the first faulty value."""
    bad = pc.index(faulty, True).as_py()
    if bad < 0:
        return
    row = row_of(bad) if callable(row_of) else row_of + bad + 1
    shown = "" if column[bad].as_py() is None else f"{quote(repr(column[bad].as_py()))} "
    raise DataError(f"{path}, column {name}, row {row}: {shown}{what}", AGAIN)


def _refuse_twice(path: str, names: list[str]) -> None:
    rows: dict[str, int] = {}
    for row, name in enumerate(names, start=1):
        if name in rows:
            raise DataError(f"{path}, column path, row {row}: '{quote(name)}' is that of row {rows[name]} too", AGAIN)
        rows[name] = row
