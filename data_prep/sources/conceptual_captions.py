"""Conceptual Captions' files: TSVs of two columns, address and caption, mostly without a header."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.errors import InputError
from data_prep.lists.delimited import tsv_rows
from data_prep.sources.source import ListedRow, ListOptions, web_row

LINES_LOOKED_AT = 1000
NAMES = {"url", "caption", "image_url", "text"}


def read(files: Sequence[Path], options: ListOptions, left_out: Counter[str]) -> Iterator[ListedRow]:
    """One row a line; each file tells by its own lines which column holds the address.

    Raises: InputError for a file in which neither does.
    """
    for path in files:
        url_at = _column_of_addresses(path)
        for line, cells in tsv_rows(path):
            if line == 1 and len(cells) == 2 and {cell.strip().lower().decode("latin-1") for cell in cells} <= NAMES:
                continue  # some add a header for img2dataset's sake
            yield _row(line, cells, url_at)


def _row(line: int, cells: list[bytes], url_at: int) -> ListedRow:
    if len(cells) != 2:
        return ListedRow(captions=[], rejected=f"bad_row: line {line}: {len(cells)} columns instead of 2")
    return web_row(cells[url_at].decode("utf-8", "surrogateescape"), [cells[1 - url_at]])


def _column_of_addresses(path: Path) -> int:
    addresses = Counter(
        place
        for _, cells in itertools.islice(tsv_rows(path), LINES_LOOKED_AT)
        for place, cell in enumerate(cells[:2])
        if cell.lower().startswith((b"http://", b"https://"))
    )
    if not addresses:
        raise InputError(
            f"{path}: no addresses in the first {LINES_LOOKED_AT} lines", "it should be lines of address TAB caption"
        )
    return addresses.most_common(1)[0][0]
