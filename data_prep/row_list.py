"""The normalised list: `rows.parquet`, one row an image, one row group a shard of the part.

Row i is line i of what the user listed, good or not: a rejected row keeps its place and its reason, so that every
listed row is accounted for by exactly one shard.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.parts import WHOLE, Part, parse_part

PART_KEY = b"data_prep_part"
SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("url", pa.string()),
        pa.field("captions", pa.string()),
        pa.field("rejected", pa.string()),
        pa.field("id", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("supersedes", pa.string()),
        pa.field("login", pa.string()),
    ]
)


@dataclass(frozen=True)
class ListedImage:
    """One listed row. `url` is a path for `pack`."""

    url: str
    captions: list[str]
    rejected: str | None = None
    """`reason: detail` when it cannot become a sample."""
    id: str | None = None
    """The source's own name for the image, when it has one."""
    licence: str | None = None
    """Of this image, when the list says so."""
    row: int | None = None
    """Number of the row, where that is not its place among the others (a retry)."""
    supersedes: str | None = None
    """Reason of an earlier failure that this attempt takes the place of (a retry)."""
    login: str | None = field(default=None, repr=False)
    """`user:password` that stood in the URL. It goes to that server and into this list, and nowhere else."""


def keep_captions(url: str, captions: Iterable[str], id: str | None = None, licence: str | None = None) -> ListedImage:
    """A row with its captions stripped and the empty ones dropped; rejected when none is left."""
    kept = [stripped for caption in captions if (stripped := caption.strip())]
    if not _is_unicode(url):
        return ListedImage("", [], f"bad_row: the image's name is not UTF-8: {ascii(url)[:100]}")
    if not all(_is_unicode(caption) for caption in kept):
        return ListedImage(url, [], "caption_not_utf8: a surrogate without its pair")
    rejected = None if kept else "empty_caption: no caption with a character in it"
    return ListedImage(url, kept, rejected, _note(id), _note(licence))


def _note(text: str | None) -> str | None:
    """What goes into a sample's record beside its captions: stripped, and nothing rather than an empty text."""
    return (text.strip() or None) if text is not None and _is_unicode(text) else None


def _is_unicode(text: str) -> bool:
    """False for text with lone surrogates, which JSON escapes and undecodable bytes leave behind."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_rows(path: Path, images: Iterable[ListedImage], shard_size: int, part: Part = WHOLE) -> int:
    """Write a part of the list atomically; returns the number of rows of the whole list. Memory: one shard's rows."""
    unpublished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    num_rows = 0
    iterator = iter(images)
    schema = SCHEMA.with_metadata({PART_KEY: str(part)})
    with pq.ParquetWriter(unpublished, schema, compression="zstd") as writer:
        while chunk := list(itertools.islice(iterator, shard_size)):
            shard = num_rows // shard_size
            num_rows += len(chunk)
            if any(image.login for image in chunk):
                unpublished.chmod(0o600)
            if shard not in part.shards(shard + 1):
                continue
            table = pa.table(
                {
                    "row": [
                        place if image.row is None else image.row
                        for place, image in enumerate(chunk, start=num_rows - len(chunk))
                    ],
                    "url": [image.url for image in chunk],
                    "captions": [json.dumps(image.captions, ensure_ascii=False) for image in chunk],
                    "rejected": [image.rejected for image in chunk],
                    "id": [image.id for image in chunk],
                    "licence": [image.licence for image in chunk],
                    "supersedes": [image.supersedes for image in chunk],
                    "login": [image.login for image in chunk],
                },
                schema=schema,
            )
            writer.write_table(table, row_group_size=shard_size)
    os.replace(unpublished, path)
    return num_rows


def read_shard_table(path: Path, shard: int) -> Any:
    """The rows of one shard of the file's part as a pyarrow table."""
    with pq.ParquetFile(path) as file:
        table = file.read_row_group(_part(file.schema_arrow).shards(shard + 1).index(shard))
    if "login" in table.column_names:
        return table
    return table.append_column("login", pa.nulls(len(table), pa.string()))  # a list of before 0.1.0


def read_part(path: Path) -> Part:
    """The part whose rows the file holds."""
    return _part(pq.read_schema(path))


def _part(schema: Any) -> Part:
    return parse_part((schema.metadata or {}).get(PART_KEY, b"1/1").decode())


def read_shard_rows(path: Path, shard: int) -> dict[int, ListedImage]:
    """The rows of one shard by row number."""
    rows = read_shard_table(path, shard).to_pylist()
    return {
        row.pop("row"): ListedImage(row.pop("url"), json.loads(row.pop("captions")), **row)  # rejected, id, licence
        for row in rows
    }
