"""The normalised list: one parquet schema for every source, which `list` writes and `download` and `pack` read.

A row is an image: url, path, captions, source, id, licence; and `rejected`, the reason of a row that stays in the list
but cannot be used. Rows left out by choice are counted in the file's metadata.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import InputError
from data_prep.lists.parquet_rows import parquet_rows, reading
from data_prep.lists.row_list import SHOWN, ListedImage, keep_captions, read_note
from data_prep.output.ownership import check_replaceable
from data_prep.sources.source import ListedRow
from samples.json_text import parse_json
from samples.quote import quote

MADE_KEY = "data_prep_list"
BATCH_ROWS = 10_000
SCHEMA = pa.schema(
    [
        pa.field("url", pa.string()),
        pa.field("path", pa.string()),
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("rejected", pa.string()),
    ]
)
NEEDED = set(SCHEMA.names) - {"rejected"}
_OTHER = {
    "url": "its images are local: data_prep pack --annotations LIST.parquet --images ROOT",
    "path": "its images are on the web: data_prep download --urls LIST.parquet",
}


@dataclass
class ListSummary:
    """Counts over a list; `rows` includes the rejected."""

    rows: int = 0
    captions: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """For each reason the number of the first row that was rejected for it, and the detail."""

    @property
    def usable(self) -> int:
        return self.rows - self.rejected.total()

    def add(self, row: ListedRow) -> None:
        """Count one row."""
        if row.rejected is not None:
            reason, _, detail = row.rejected.partition(": ")
            self.rejected[reason] += 1
            self.examples.setdefault(reason, f"{self.rows}: {quote(detail, SHOWN)}")
        self.rows += 1
        self.captions += len(row.captions)


def write_list(
    path: Path, source: str, rows: Iterable[ListedRow], left_out: Counter[str], made: dict[str, Any]
) -> ListSummary:
    """Write a list atomically, if it has a row that can be used. Memory: 10,000 rows.

    Args:
        left_out: counts of rows left out by choice, by rule; complete only when `rows` is used up.
        made: how the list was made, for the file's metadata.
    Raises: FolderError when `path` exists and is no list by this function.
    """
    check_replaceable(path, _is_written_here, "--out")
    summary = ListSummary(left_out=left_out)
    unpublished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    iterator = iter(rows)
    try:
        with pq.ParquetWriter(unpublished, SCHEMA, compression="zstd") as writer:
            while chunk := list(itertools.islice(iterator, BATCH_ROWS)):
                for row in chunk:
                    summary.add(row)
                writer.write_table(pa.Table.from_pylist([{**vars(row), "source": source} for row in chunk], SCHEMA))
            counts = {"rows": summary.rows, "rejected": summary.rejected, "left_out": left_out}
            writer.add_key_value_metadata({MADE_KEY: json.dumps({**made, **counts}, sort_keys=True)})
        if summary.usable:
            os.replace(unpublished, path)
    finally:
        unpublished.unlink(missing_ok=True)
    return summary


def is_list(path: Path) -> bool:
    """Whether a file has the list's columns, with captions in lists, not in one text; other tools may write one too."""
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return False
    try:
        schema = pq.read_schema(path)
        return set(schema.names) >= NEEDED and pa.types.is_list(schema.field("captions").type)
    except (pa.ArrowInvalid, OSError):
        return False


def _is_written_here(path: Path) -> bool:
    return is_list(path) and MADE_KEY.encode() in (pq.read_metadata(path).metadata or {})


def how_listed(paths: Iterable[Path]) -> dict[str, Any]:
    """For a shard's record: `listed`, how each of these lists was made, and how many rows were left out by choice.

    Raises: InputError when a list's metadata is not that of `write_list`.
    """
    made = {}
    for path in filter(is_list, paths):
        recorded = (pq.read_metadata(path).metadata or {}).get(MADE_KEY.encode())
        if recorded is not None:
            try:
                made[path.name] = parse_json(recorded)
            except ValueError as error:
                raise InputError(
                    f"{path}: its metadata {MADE_KEY} is no JSON: {error}", "list its source again"
                ) from error
    return {"listed": made} if made else {}


def list_source(path: Path) -> str:
    """The one source of all rows of a list.

    Raises: InputError when there are several.
    """
    with reading(path), pq.ParquetFile(path) as file:
        names: set[str] = set()
        for batch in file.iter_batches(100_000, columns=["source"]):
            names.update(batch.column("source").unique().to_pylist())
    if len(names) != 1:
        raise InputError(
            f"{path.name} has rows of {len(names)} sources: {quote(', '.join(sorted(map(str, names))))}",
            "make a list, and a folder of shards, of each; or name them as one with --source",
        )
    return str(names.pop())


def read_list(path: Path, where: Literal["url", "path"]) -> Iterator[ListedImage]:
    """The list's rows, with the URL or the path of each image.

    Raises: InputError when no row has one.
    """
    with reading(path), pq.ParquetFile(path) as file:
        missing = sum(batch.column(where).null_count for batch in file.iter_batches(BATCH_ROWS, columns=[where]))
        if missing == file.metadata.num_rows:
            raise InputError(f"no row of {path.name} has {'a URL' if where == 'url' else 'a path'}", _OTHER[where])
        columns = [where, "captions", "id", "licence", *({"rejected"} & set(file.schema_arrow.names))]
    for row in parquet_rows(path, columns):
        yield _image(row[where], row)


def _image(name: object, row: dict[str, Any]) -> ListedImage:
    image = keep_captions(name, [row["captions"]], row["id"], row["licence"])
    rejected = read_note(row.get("rejected"))
    if rejected is None and not image.url and image.rejected is None:
        rejected = "empty_url: the list has none for this row"
    return image if rejected is None else dataclasses.replace(image, rejected=rejected)
