"""Rows of a user's parquet file as plain values, texts as bytes.

Parquet does not guarantee that its strings are UTF-8; one that is not must lose its row only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import InputError
from samples.quote import quote

BATCH_ROWS = 10_000


def parquet_names(path: Path) -> list[str]:
    """Names of a file's columns. Raises: InputError when it is no parquet file."""
    with reading(path):
        return list(pq.read_schema(path).names)


def parquet_rows(path: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The cells of these columns, row by row: bytes for a text, a list for a list, None for nothing.

    Memory: 10,000 rows. Raises: InputError when the file cannot be read to its end.
    """
    with reading(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=list(names)):
            cells = [_as_binary(batch.column(name)).to_pylist() for name in names]
            for row in zip(*cells, strict=True):
                yield dict(zip(names, row, strict=True))


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns pyarrow's errors for a damaged file into an InputError that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as parquet: {quote(error)}", "give a readable list") from error


def _as_binary(column: Any) -> Any:
    """The column with its texts, also those in lists, as bytes; other types stay."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if _is_text(kind):
        return column.cast(pa.large_binary())
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if listed and _is_text(kind.value_type):
        return column.cast(pa.large_list(pa.large_binary()))
    return column


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
