"""Reads a user's list of addresses and captions: TSV, CSV, JSONL or parquet, with or without a header.

img2dataset's own readers stop at an unbalanced quote and strip balanced ones, so lists never reach it as they are:
they are read here, row by row, and a row that cannot be used keeps its place with a reason.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import InputError, UsageError
from data_prep.published_file import open_bytes
from data_prep.row_list import ListedImage, keep_captions
from data_prep.web_url import BadUrl, login_of, normalise_url
from samples.quote import quote, without_logins

FORMATS = (".tsv", ".csv", ".jsonl", ".parquet")
BATCH_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class ListColumns:
    url: str = "url"
    """Column that holds the address."""
    captions: tuple[str, ...] = ("caption",)
    """Columns that hold captions, each a text or a list of texts; all of them become the image's captions."""
    names: tuple[str, ...] | None = None
    """Names of the columns of a TSV or CSV without a header, in order."""
    id: str | None = None
    """Column with the source's own name for the image."""
    licence: str | None = None
    """Column with the image's licence."""
    local: bool = False
    """What `url` names is the path of a local image, which is taken as it is."""

    @property
    def wanted(self) -> tuple[str, ...]:
        """All that are read, each once: the address first."""
        notes = (name for name in (self.id, self.licence) if name is not None)
        return tuple(dict.fromkeys((self.url, *self.captions, *notes)))


def read_url_list(path: Path, columns: ListColumns) -> Iterator[ListedImage]:
    """Rows in the file's order, every one of them, usable or rejected with its reason.

    Raises: InputError for a file that is missing, empty or unreadable; UsageError for a column it does not have.
    """
    if not path.is_file():
        raise InputError(f"list not found: {path}", "give an existing file with --urls")
    if path.suffix not in FORMATS:
        raise UsageError(f"{path.name}: a list ends in {', '.join(FORMATS)}", "rename it to what it holds")
    if path.suffix == ".parquet":
        return _read_parquet(path, columns)
    if path.suffix == ".jsonl":
        return _read_jsonl(path, columns)
    return _read_delimited(path, columns)


# TSV and CSV: cells are bytes until it is known which column they are of, so that a caption in another encoding is
# told from an address in another encoding.


def _read_delimited(path: Path, columns: ListColumns) -> Iterator[ListedImage]:
    lines = _csv_lines(path) if path.suffix == ".csv" else tsv_lines(path)
    first = next(lines, None)
    if first is None:
        raise InputError(f"{path} is empty", "give a list with at least one row")
    names, first_is_data = _header(path, first, columns)
    places = {name: _find(path, name, names) for name in columns.wanted}
    for cells in itertools.chain([first] if first_is_data else [], lines):
        if len(cells) != len(names):
            yield ListedImage("", [], f"bad_row: {len(cells)} columns instead of {len(names)}")
            continue
        yield _listed({name: cells[place] for name, place in places.items()}, columns)


def tsv_lines(path: Path) -> Iterator[list[bytes]]:
    """Tabs separate, line feeds end, and quotes are letters like any other."""
    with open_bytes(path) as file:
        for number, line in enumerate(file):
            if number == 0:
                line = line.removeprefix(b"\xef\xbb\xbf")
            yield line.rstrip(b"\r\n").split(b"\t")


def _csv_lines(path: Path) -> Iterator[list[bytes]]:
    csv.field_size_limit(2**31 - 1)
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for cells in reader:
                if cells:
                    yield [cell.encode("utf-8", "surrogateescape") for cell in cells]
        except csv.Error as error:
            raise InputError(
                f"{path}, line {reader.line_num}: {error}",
                "a CSV doubles the quotes inside a quoted field; if its quotes are plain letters, make it a .tsv",
            ) from error


def _header(path: Path, first: list[bytes], columns: ListColumns) -> tuple[list[str], bool]:
    """Names of the columns, and whether the first line is already data."""
    if columns.names is not None:
        if len(columns.names) != len(first):
            raise UsageError(
                f"--columns names {len(columns.names)} columns, {path.name} has {len(first)}",
                "name every column of the file, in order",
            )
        return list(columns.names), True
    cells = [cell.decode("utf-8", "replace").strip() for cell in first]
    addresses = [i for i, cell in enumerate(cells) if cell.lower().startswith(("http://", "https://"))]
    if not addresses:
        return cells, False
    if len(addresses) == 1 and len(cells) == 2 and columns == ListColumns():
        # CC3M is caption, url and CC12M is url, caption, both without a header: the first row tells.
        return (["url", "caption"] if addresses == [0] else ["caption", "url"]), True
    raise UsageError(
        f"{path.name} begins with data, not with names of columns", "name its columns, e.g. --columns url,caption"
    )


# JSONL and parquet: a cell may be a text, a list of texts or nothing.


def _read_jsonl(path: Path, columns: ListColumns) -> Iterator[ListedImage]:
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            if not line.strip():
                continue
            try:
                # Bytes that are not UTF-8 survive as surrogates, so that only the row they are in is lost.
                fields = json.loads(line.decode("utf-8", "surrogateescape"))
            except ValueError as error:
                yield ListedImage("", [], f"bad_row: {error}")
                continue
            if not isinstance(fields, dict):
                yield ListedImage("", [], "bad_row: not a JSON object")
                continue
            if number == 0:
                for name in columns.wanted:
                    _find(path, name, list(fields))
            yield _listed(fields, columns)


def _read_parquet(path: Path, columns: ListColumns) -> Iterator[ListedImage]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a parquet file: {error}", "give a readable list") from error
    with file:
        for name in columns.wanted:
            _find(path, name, file.schema_arrow.names)
        for batch in file.iter_batches(BATCH_ROWS, columns=list(columns.wanted)):
            cells = [_binary(batch.column(name)).to_pylist() for name in columns.wanted]
            for row in zip(*cells, strict=True):
                yield _listed(dict(zip(columns.wanted, row, strict=True)), columns)


def _binary(column: Any) -> Any:
    """Text as bytes: parquet does not promise that its strings are UTF-8."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return column.cast(pa.large_list(pa.large_binary()))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.large_binary())
    return column


def _as_list(cell: Any) -> list[Any]:
    if cell is None:
        return []
    return cell if isinstance(cell, list) else [cell]


def _to_bytes(cell: Any) -> bytes:
    if cell is None:
        return b""
    return cell if isinstance(cell, bytes) else str(cell).encode("utf-8", "surrogatepass")


def _listed(fields: Mapping[str, Any], columns: ListColumns) -> ListedImage:
    url = _to_bytes(fields.get(columns.url))
    try:
        address = url.decode("utf-8").strip() if columns.local else normalise_url(url.decode("utf-8"))
    except UnicodeDecodeError:
        text = quote(without_logins(url.decode("utf-8", "backslashreplace")))
        return ListedImage("", [], f"bad_url: not UTF-8: {text}")
    except BadUrl as error:
        return ListedImage("", [], str(error))
    if not address:
        return ListedImage("", [], "bad_row: no path")
    captions = [_to_bytes(caption) for name in columns.captions for caption in _as_list(fields.get(name))]
    try:
        texts = [caption.decode("utf-8") for caption in captions]
    except UnicodeDecodeError as error:
        return ListedImage(address, [], f"caption_not_utf8: {error.reason} at byte {error.start}")
    listed = keep_captions(address, texts, _note(fields, columns.id), _note(fields, columns.licence))
    login = None if columns.local or listed.rejected else login_of(url.decode("utf-8"))
    return listed if login is None else dataclasses.replace(listed, login=login)


def _note(fields: Mapping[str, Any], name: str | None) -> str | None:
    return None if name is None else _to_bytes(fields.get(name)).decode("utf-8", "replace")


def _find(path: Path, name: str, names: Sequence[str]) -> int:
    if name in names:
        return list(names).index(name)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    raise UsageError(
        f"{path.name} has no column {name!r}",
        f"{hint}its columns are {', '.join(names)}: see --url-col, --path-col, --caption-col, --id-col, --licence-col",
    )
