"""The normalised list: `rows.parquet`, one row for each image, one row group for each shard of the part.

Row i is row i of the user's list, good or not: a rejected row keeps its number and gets a reason, so that exactly one
shard accounts for every listed row.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from base.atomic_file import replacing
from data_prep.output.parts import WHOLE, Part, parse_part
from samples.json_text import is_unicode
from samples.quote import quote
from samples.record import usable_captions

SHOWN = 60
"""Characters of a cell that a reason shows."""
_DIGITS = re.compile("[0-9]{1,20}")
_WRITTEN_OUT = re.compile(r"""\[\s*(['"]).*\1\s*,?\s*\]|\{\s*(['"])[^'"]*\2\s*:.*\}""", re.DOTALL)
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
    """Licence of this image, when the list has one."""
    row: int | None = None
    """Number of the row, where it is not that of its position here (in a retry)."""
    supersedes: str | None = None
    """Reason of the earlier failure that this attempt replaces (in a retry)."""
    login: str | None = field(default=None, repr=False)
    """`user:password` of the URL. It is sent to that server and written to this list, and nowhere else."""


class NotText(ValueError):
    """`str()` is the reason: `not_text: ...` or `not_utf8: ...`."""


def keep_captions(url: object, cells: Iterable[object], id: object = None, licence: object = None) -> ListedImage:
    """A row with its captions stripped, without those that training cannot use.

    It is rejected when none is left, or when one is no text. All readers use this function, so that nothing becomes a
    caption, or a path, by `str()`.

    Args:
        url: the image's URL or path.
        cells: each a text, UTF-8 bytes, a list of these, or nothing (None or NaN, as pandas writes it).
        id: the source's own name for the image, a text or a whole number; anything else is ignored.
        licence: the same.
    """
    try:
        name = read_text(url)
    except NotText as error:
        return ListedImage("", [], f"bad_row: the image's name: {error}")
    try:
        texts = [read_text(caption) for cell in cells for caption in (cell if isinstance(cell, list) else [cell])]
        for text in texts:
            _refuse_written_out(text.strip())
    except NotText as error:
        return ListedImage(name, [], f"caption_{error}")
    kept = usable_captions(text.strip() for text in texts)
    rejected = None if kept else "empty_caption: no caption of which training's cleaning leaves a word"
    return ListedImage(name, kept, rejected, read_note(id), read_note(licence))


def read_text(cell: object) -> str:
    """A cell as text; an empty one for None and NaN. Raises: NotText."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, bytes):
        try:
            cell = cell.decode("utf-8")
        except UnicodeDecodeError as error:
            raise NotText(f"not_utf8: {error.reason} at byte {error.start}") from error
    if not isinstance(cell, str):
        raise NotText(f"not_text: {type(cell).__name__} {quote(cell, SHOWN)}")
    if not is_unicode(cell):
        raise NotText("not_utf8: a surrogate without its pair")
    if "\0" in cell:
        raise NotText("not_text: a NUL character in it")
    return cell


def read_note(cell: object) -> str | None:
    """A value for a sample's record beside its captions: a text or a whole number; None for anything else."""
    if not isinstance(cell, str | bytes):
        number = whole_number(cell)
        return None if number is None else str(number)
    try:
        return read_text(cell).strip() or None
    except NotText:
        return None


def whole_number(cell: object) -> int | None:
    """7 for 7, "7" and 7.0 (which pandas makes of 7 in a column with gaps); None for anything else."""
    if isinstance(cell, str):
        return int(cell) if _DIGITS.fullmatch(cell.strip()) else None
    if isinstance(cell, float):
        return int(cell) if cell.is_integer() and abs(cell) < 2**53 else None
    return cell if isinstance(cell, int) and not isinstance(cell, bool) else None


def _refuse_written_out(caption: str) -> None:
    """Refuse a list or mapping that some tool wrote out as text, such as `['a dog', 'a cat']`: it is no caption."""
    if _WRITTEN_OUT.fullmatch(caption):
        raise NotText(f"not_text: a list or mapping written out as text: {quote(caption, SHOWN)}")


def write_rows(path: Path, images: Iterable[ListedImage], shard_size: int, part: Part = WHOLE) -> int:
    """Write a part of the list atomically; returns the number of rows of the whole list. Memory: one shard's rows."""
    num_rows = 0
    iterator = iter(images)
    schema = SCHEMA.with_metadata({PART_KEY: str(part)})
    with replacing(path) as unpublished, pq.ParquetWriter(unpublished, schema, compression="zstd") as writer:
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
                        number if image.row is None else image.row
                        for number, image in enumerate(chunk, start=num_rows - len(chunk))
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
