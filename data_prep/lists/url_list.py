"""Reads a user's list of images and captions: TSV, CSV, JSON, JSON lines or parquet, as other tools write them.

img2dataset's own readers stop at an unbalanced quote and strip balanced ones. So lists are read here, row by row, and a
row that cannot be used keeps its number and gets a reason.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from base.errors import UsageError
from data_prep.errors import InputError
from data_prep.lists.delimited import read_delimited
from data_prep.lists.json_stream import stream_json_list
from data_prep.lists.list_columns import ROWS_LOOKED_AT, ListColumns, check_columns
from data_prep.lists.parquet_rows import parquet_names, parquet_rows
from data_prep.lists.published_file import COMPRESSED, check_is_file, lines
from data_prep.lists.row_list import SHOWN, ListedImage, NotText, keep_captions, read_text
from data_prep.lists.web_url import BadUrl, login_of, normalise_url
from samples.quote import quote

Format = Literal["tsv", "csv", "jsonl", "json", "parquet"]
ENDINGS: dict[str, Format] = {
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}
_Fields = Mapping[str, Any]


def list_format(path: Path) -> Format | None:
    """The format, by the file's ending in any case, also before .gz and the like; None for an unknown ending."""
    name = path.name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return ENDINGS.get(Path(name).suffix)


def read_url_list(path: Path, columns: ListColumns) -> Iterator[ListedImage]:
    """Every row, in the file's order, usable or rejected with a reason.

    Raises: InputError for a file that is missing, empty or unreadable; UsageError for a column it does not have.
    """
    check_is_file(path, f"give an existing file with {'--annotations' if columns.local else '--urls'}")
    kind = list_format(path)
    if kind is None:
        raise UsageError(
            f"{path.name}: a list ends in {', '.join(ENDINGS)}, or in one of these and {', '.join(COMPRESSED)}",
            "rename it to what it holds",
        )
    if kind == "parquet":
        if path.suffix.lower() in COMPRESSED:
            raise InputError(f"{path.name} is a compressed parquet file", "unpack it: parquet is compressed inside")
        check_columns(path, columns.wanted, parquet_names(path))
        return (_listed(row, columns) for row in parquet_rows(path, columns.wanted))
    if kind == "json":
        return read_records(path, ((None, entry) for entry in stream_json_list(path)), columns)
    if kind == "jsonl":
        return read_records(path, _json_lines(path), columns)
    return _at_lines(read_delimited(path, kind, columns), columns)


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines(path), start=1):
        if not line.strip():
            continue
        try:
            # Bytes that are not UTF-8 survive as surrogates, so that only the row they are in is lost.
            yield number, json.loads(line.decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError) as error:
            yield number, ListedImage("", [], f"bad_row: {quote(error)}")


def read_records(path: Path, records: Iterator[tuple[int | None, Any]], columns: ListColumns) -> Iterator[ListedImage]:
    """Rows of JSON objects, each with its line where it has one.

    Raises: InputError when there are none; UsageError for a column that none of the first thousand has.
    """
    first = list(itertools.islice(records, ROWS_LOOKED_AT))
    if not first:
        raise InputError(f"{path} is empty", "give a list with at least one row")
    names = dict.fromkeys(name for _, fields in first if isinstance(fields, dict) for name in fields)
    if names:
        check_columns(path, columns.wanted, list(names))
    yield from _at_lines(itertools.chain(first, records), columns)


def _at_lines(rows: Iterable[tuple[int | None, Any]], columns: ListColumns) -> Iterator[ListedImage]:
    """The rows; a rejected row's reason gets its line, where it has one."""
    for line, fields in rows:
        if isinstance(fields, ListedImage):
            image = fields
        elif isinstance(fields, dict):
            image = _listed(fields, columns)
        else:
            image = ListedImage("", [], f"bad_row: not a JSON object: {quote(fields, SHOWN)}")
        if line is not None and image.rejected is not None:
            reason, _, detail = image.rejected.partition(": ")
            image = dataclasses.replace(image, rejected=f"{reason}: line {line}: {detail}")
        yield image


def _listed(fields: _Fields, columns: ListColumns) -> ListedImage:
    cell = fields.get(columns.url)
    try:
        name = read_text(cell) if columns.local else normalise_url(read_text(cell))
    except NotText as error:
        return ListedImage("", [], f"{'bad_row' if columns.local else 'bad_url'}: {columns.url} is {error}")
    except BadUrl as error:
        return ListedImage("", [], str(error))
    if not name.strip():
        return ListedImage("", [], f"bad_row: no {columns.url}")
    captions = (fields.get(name) for name in columns.captions)
    notes = (None if name is None else fields.get(name) for name in (columns.id, columns.licence))
    image = keep_captions(name, captions, *notes)
    login = None if columns.local or image.rejected else login_of(read_text(cell))
    return image if login is None else dataclasses.replace(image, login=login)
