"""Conceptual Captions' files: TSVs of two columns, address and caption, mostly without a header."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.errors import InputError
from data_prep.sources.source import ListedRow, ListOptions, web_row
from data_prep.url_list import tsv_lines

LINES_LOOKED_AT = 1000
NAMES = {"url", "caption", "image_url", "text"}


def read(files: Sequence[Path], options: ListOptions, left_out: Counter[str]) -> Iterator[ListedRow]:
    """One row a line; each file tells by its own lines which column holds the address.

    Raises: InputError for a file in which neither does.
    """
    for path in files:
        url_at = _column_of_addresses(path)
        for number, cells in enumerate(tsv_lines(path)):
            if number == 0 and len(cells) == 2 and {cell.strip().lower().decode("latin-1") for cell in cells} <= NAMES:
                continue  # some add a header for img2dataset's sake
            yield _row(cells, url_at)


def _row(cells: list[bytes], url_at: int) -> ListedRow:
    if len(cells) != 2:
        return ListedRow(captions=[], rejected=f"bad_row: {len(cells)} columns instead of 2")
    url, caption = cells[url_at], cells[1 - url_at]
    row = web_row(url.decode("utf-8", "surrogateescape"), [])
    if row.url is None:
        return row
    try:
        return web_row(row.url, [caption.decode("utf-8")])
    except UnicodeDecodeError as error:
        return ListedRow(url=row.url, captions=[], rejected=f"caption_not_utf8: {error.reason} at byte {error.start}")


def _column_of_addresses(path: Path) -> int:
    addresses = Counter(
        place
        for cells in itertools.islice(tsv_lines(path), LINES_LOOKED_AT)
        for place, cell in enumerate(cells[:2])
        if cell.lower().startswith((b"http://", b"https://"))
    )
    if not addresses:
        raise InputError(
            f"{path}: no addresses in the first {LINES_LOOKED_AT} lines", "it should be lines of address TAB caption"
        )
    return addresses.most_common(1)[0][0]
