"""`manifest.parquet`: what a folder of shards holds, one row a shard. The contract is written out in docs/shards.md."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import InputError
from data_prep.output import storage
from samples.quote import quote

MANIFEST_NAME = "manifest.parquet"
MANIFEST_VERSION = "1"
SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("num_samples", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("keys", pa.list_(pa.string()), nullable=False),
        pa.field("offsets", pa.list_(pa.int64()), nullable=False),
        pa.field("lengths", pa.list_(pa.int64()), nullable=False),
        pa.field("listed", pa.int64(), nullable=False),
        pa.field("yield", pa.float64(), nullable=False),
        pa.field("failures", pa.list_(pa.struct([("reason", pa.string()), ("count", pa.int64())])), nullable=False),
        pa.field("tools", pa.string(), nullable=False),
        pa.field("arguments", pa.string(), nullable=False),
        pa.field("created", pa.string(), nullable=False),
        pa.field("filtered", pa.list_(pa.struct([("rule", pa.string()), ("count", pa.int64())])), nullable=False),
        pa.field("keys_sha256", pa.string()),
        pa.field("supersedes", pa.list_(pa.struct([("reason", pa.string()), ("count", pa.int64())])), nullable=False),
    ],
    metadata={"albef_manifest_version": MANIFEST_VERSION},
)


CONTROLS = re.compile("[\x00-\x1f\x7f]")
AGAIN = "write it again with the data_prep of this checkout: `python -m data_prep verify`"
WHOLE_TAR: dict[str, Any] = {"filtered": [], "keys_sha256": None, "supersedes": []}
"""These columns of a row that names every sample of its tar and is no retry; also the values where they are missing."""


class ManifestWriter:
    """Writes rows as they come and publishes the file in one rename, or leaves nothing.

    One row group a shard: memory stays at one shard's keys, and a reader can take a single shard's row.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / MANIFEST_NAME
        self._unpublished = storage.unpublished(self.path)
        self._writer = pq.ParquetWriter(self._unpublished, SCHEMA, compression="zstd")

    def add(self, row: Mapping[str, Any]) -> None:
        self._writer.write_table(pa.Table.from_pylist([{**WHOLE_TAR, **row}], schema=SCHEMA))

    def publish(self, leave_out: Set[str] = frozenset()) -> None:
        """Rename the file to its final name, without the shards whose path is in `leave_out`."""
        self._writer.close()
        if leave_out:
            self._rewrite_without(leave_out)
        with open(self._unpublished, "rb") as file:
            os.fsync(file.fileno())
        storage.publish(self._unpublished, self.path)

    def _rewrite_without(self, leave_out: Set[str]) -> None:
        shorter = self._unpublished.with_suffix(".shorter")
        with (
            pq.ParquetFile(self._unpublished) as before,
            pq.ParquetWriter(shorter, SCHEMA, compression="zstd") as after,
        ):
            for group in range(before.num_row_groups):
                row = before.read_row_group(group)
                if row["path"][0].as_py() not in leave_out:
                    after.write_table(row)
        os.replace(shorter, self._unpublished)

    def discard(self) -> None:
        self._writer.close()
        self._unpublished.unlink(missing_ok=True)


def keys_digest(keys: Iterable[str]) -> str:
    """`keys_sha256` of a row that names only some samples of its tar: it fixes which ones, and their order."""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def write_manifest(folder: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write `folder/manifest.parquet` atomically from rows of the contract's columns."""
    writer = ManifestWriter(folder)
    try:
        for row in rows:
            writer.add(row)
    except BaseException:
        writer.discard()
        raise
    writer.publish()
    return writer.path


def read_manifest(path: Path) -> list[dict[str, Any]]:
    """All rows of a manifest as dictionaries; for reports and tests, not for 14 million samples."""
    table = pq.read_table(path)
    version = (table.schema.metadata or {}).get(b"albef_manifest_version")
    if version != MANIFEST_VERSION.encode():
        raise ValueError(f"{path}: manifest version {version!r}, this code reads {MANIFEST_VERSION}")
    return [{**WHOLE_TAR, **row} for row in table.to_pylist()]


def stream_manifest(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a manifest one at a time, with all columns or some; missing columns of `WHOLE_TAR` are filled in.

    Memory: one row group, which is one shard in a manifest by data_prep.
    Raises: InputError when it is no manifest of this version.
    """
    try:
        with storage.open_parquet(path) as file:
            version = (file.schema_arrow.metadata or {}).get(b"albef_manifest_version", b"none")
            if version != MANIFEST_VERSION.encode():
                shown = quote(version.decode("utf-8", "replace"))
                raise InputError(f"{path} is no manifest of version {MANIFEST_VERSION} but {shown}", AGAIN)
            present = file.schema_arrow.names
            wanted = [name for name in columns or SCHEMA.names if name in present or name not in WHOLE_TAR]
            if missing := [name for name in wanted if name not in present]:
                raise InputError(f"{path} lacks the columns {', '.join(missing)}", AGAIN)
            defaults = {name: value for name, value in WHOLE_TAR.items() if columns is None or name in columns}
            for number, batch in enumerate(file.iter_batches(1, columns=wanted), start=1):
                yield {**defaults, **_checked(path, number, batch.to_pylist()[0])}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {quote(' '.join(str(error).split()), 150)}", AGAIN) from error


def _checked(path: Path, number: int, row: dict[str, Any]) -> dict[str, Any]:
    """The row, checked against the contract.

    Raises: InputError naming the column and the row, counted from 1.
    """
    for name, value in row.items():
        kind = SCHEMA.field(name).type if name in SCHEMA.names else None
        if kind is not None and not (value is None and name == "keys_sha256") and not _fits(value, kind):
            raise InputError(f"{path}, column {name}, row {number}: holds {quote(repr(value))}", AGAIN)
        names = value if name == "keys" else [value] if name in ("path", "source") else []
        if strange := next(filter(CONTROLS.search, names), None):
            what = f"'{quote(strange)}' has control characters"
            raise InputError(f"{path}, column {name}, row {number}: {what}", AGAIN)
    counts = {name: len(row[name]) for name in ("keys", "offsets", "lengths") if name in row}
    if "num_samples" in row and any(count != row["num_samples"] for count in counts.values()):
        shown = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise InputError(f"{path}, row {number}: {row['num_samples']} samples, {shown}", AGAIN)
    return row


def _fits(value: Any, kind: pa.DataType) -> bool:
    """Whether a value is of a type of the contract; counts are not negative."""
    if pa.types.is_string(kind):
        return type(value) is str
    if pa.types.is_int64(kind):
        return type(value) is int and 0 <= value < 2**63
    if pa.types.is_float64(kind):
        return type(value) is float and math.isfinite(value)
    if not pa.types.is_list(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        return isinstance(value, dict) and all(_fits(value.get(field.name), field.type) for field in fields)
    if not isinstance(value, list):
        return False
    # One set of all types in a shard instead of one check a value: 14 million samples have 42 million values.
    if pa.types.is_string(kind.value_type):
        return {*map(type, value)} <= {str}
    if pa.types.is_int64(kind.value_type):
        return {*map(type, value)} <= {int} and min(value, default=0) >= 0 and max(value, default=0) < 2**63
    return all(_fits(part, kind.value_type) for part in value)
