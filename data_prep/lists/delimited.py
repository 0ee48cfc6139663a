"""Reads TSV and CSV, with or without a header, row by row: each row's cells by column, or what is wrong with it.

Cells are bytes until their column is known: a caption and a URL in another encoding are different faults.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from base.errors import UsageError
from data_prep.errors import InputError
from data_prep.lists.list_columns import ROWS_LOOKED_AT, ListColumns, check_columns
from data_prep.lists.published_file import lines
from data_prep.lists.row_list import ListedImage

MAX_LINES_A_ROW = 100
"""Of a CSV: otherwise a quote that is never closed would make one row of the rest of the list."""
_URL = re.compile(rb"https?://", re.IGNORECASE)

NumberedRow = tuple[int, list[bytes]]
"""The line a row begins in, from 1, and its cells."""


def read_delimited(
    path: Path, kind: Literal["tsv", "csv"], columns: ListColumns
) -> Iterator[tuple[int, dict[str, bytes] | ListedImage]]:
    """(line, cells by the name of their column), or (line, the rejected row) for one with another number of columns.

    Raises: InputError for a list that is empty, or a CSV with a quote that is never closed; UsageError for a column it
        does not have.
    """
    rows = csv_rows(path) if kind == "csv" else tsv_rows(path)
    first = list(itertools.islice(rows, ROWS_LOOKED_AT))
    if not first:
        raise InputError(f"{path} is empty", "give a list with at least one row")
    names, num_header = _header(path, [cells for _, cells in first], columns)
    check_columns(path, columns.wanted, names)
    indices = {name: names.index(name) for name in columns.wanted}
    for line, cells in itertools.chain(first[num_header:], rows):
        if len(cells) != len(names):
            yield line, _bad_row(f"{len(cells)} columns instead of {len(names)}")
        elif not columns.local and any(b"\n" in cell and _URL.search(cell) for cell in cells):
            yield line, _bad_row("a quoted cell of several lines with a URL in it: is a quote never closed?")
        else:
            yield line, {name: cells[index] for name, index in indices.items()}


def tsv_rows(path: Path) -> Iterator[NumberedRow]:
    """Rows of a TSV: tabs separate cells, quotes are plain characters, and an empty line is no row."""
    for number, line in enumerate(lines(path), start=1):
        if line:
            yield number, line.split(b"\t")


def csv_rows(path: Path) -> Iterator[NumberedRow]:
    """Rows of a CSV; quoted cells may hold commas and line ends. Raises: InputError for a quote never closed."""
    csv.field_size_limit(2**31 - 1)
    last_line = number = 0

    def numbered() -> Iterator[str]:
        nonlocal number
        for line in lines(path):
            number += 1
            if number - last_line > MAX_LINES_A_ROW:
                raise csv.Error(f"a quoted cell of more than {MAX_LINES_A_ROW} lines")
            yield line.replace(b"\r", b" ").decode("utf-8", "surrogateescape") + "\n"

    try:
        for cells in csv.reader(numbered(), strict=True):
            if cells:
                yield last_line + 1, [cell.encode("utf-8", "surrogateescape") for cell in cells]
            last_line = number
    except csv.Error as error:
        raise InputError(
            f"{path}, line {last_line + 1}: {error}",
            "a CSV doubles the quotes inside a quoted field; if its quotes are plain letters, make it a .tsv",
        ) from error


def _header(path: Path, rows: Sequence[Sequence[bytes]], columns: ListColumns) -> tuple[list[str], int]:
    """Names of the columns, and the number of header rows: 1 or 0."""
    header = [cell.decode("utf-8", "replace").strip() for cell in rows[0]]
    if columns.names is not None:
        if not any(len(cells) == len(columns.names) for cells in rows):
            raise UsageError(
                f"--columns names {len(columns.names)} columns, {path.name} has {len(rows[0])}",
                "name every column of the file, in order",
            )
        return list(columns.names), int(header == list(columns.names))
    width = Counter(map(len, rows)).most_common(1)[0][0]
    if not any(map(_is_url, rows[0])) and not (len(rows[0]) != width and set(columns.wanted) - set(header)):
        return header, 1
    where = Counter(index for cells in rows if len(cells) == 2 for index in (0, 1) if _is_url(cells[index]))
    if width == 2 and where and columns == ListColumns():
        # CC3M is caption, url and CC12M is url, caption, both without a header: the rows show which.
        return (["url", "caption"] if where.most_common(1)[0][0] == 0 else ["caption", "url"]), 0
    raise UsageError(
        f"{path.name} begins with data, not with names of columns", "name its columns, e.g. --columns url,caption"
    )


def _bad_row(why: str) -> ListedImage:
    return ListedImage("", [], f"bad_row: {why}")


def _is_url(cell: bytes) -> bool:
    return cell.strip().lower().startswith((b"http://", b"https://"))
