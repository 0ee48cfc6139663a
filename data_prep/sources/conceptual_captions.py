"""Conceptual Captions, 3.3 and 12 million: TSVs of two columns, URL and caption, mostly without a header.

CC12M masks names of persons as <PERSON>. The mask stays in the record, as published: training's cleaning of captions
turns it into `person` (`samples/captions.py`), as the original's does.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.errors import InputError
from data_prep.lists.delimited import tsv_rows
from data_prep.sources.source import ListedRow, ListOptions, Source, web_row

LINES_LOOKED_AT = 1000
NAMES = {"url", "caption", "image_url", "text"}


def read(files: Sequence[Path], options: ListOptions, left_out: Counter[str]) -> Iterator[ListedRow]:
    """One row for each line; which column holds the URL is decided file by file, from its first lines.

    Raises: InputError for a file in which neither does.
    """
    for path in files:
        url_at = _url_column(path)
        for line, cells in tsv_rows(path):
            if line == 1 and len(cells) == 2 and {cell.strip().lower().decode("latin-1") for cell in cells} <= NAMES:
                continue  # a header, which some add for img2dataset
            yield _row(line, cells, url_at)


def _row(line: int, cells: list[bytes], url_at: int) -> ListedRow:
    if len(cells) != 2:
        return ListedRow(captions=[], rejected=f"bad_row: line {line}: {len(cells)} columns instead of 2")
    return web_row(cells[url_at].decode("utf-8", "surrogateescape"), [cells[1 - url_at]])


def _url_column(path: Path) -> int:
    found = Counter(
        index
        for _, cells in itertools.islice(tsv_rows(path), LINES_LOOKED_AT)
        for index, cell in enumerate(cells[:2])
        if cell.lower().startswith((b"http://", b"https://"))
    )
    if not found:
        raise InputError(
            f"{path}: no URLs in the first {LINES_LOOKED_AT} lines", "it should be lines of URL TAB caption"
        )
    return found.most_common(1)[0][0]


CC3M = Source(
    name="cc3m",
    read=read,
    rows=3_318_333,
    rows_from="dataset card; the validation file has 15,840 more",
    expected_yield=0.70,
    yield_when="2024-01",
    yield_from="img2dataset issue 391; it was 87.6% in 2021-12 (card of pixparse/cc3m-wds)",
    resolution="over 400 px, at most 2:1",
    resolution_from="how it was collected, quoted in the card of CC12M; hosts may serve less today",
    files=(
        ("Train_GCC-training.tsv", "caption TAB URL, no header"),
        ("Validation_GCC-1.1.0-Validation.tsv", "the same; ALBEF trains on it too"),
    ),
    licence="list: Google's terms for Conceptual Captions; images: their owners', not listed",
    licence_from="card of pixparse/cc3m-wds",
)


CC12M = Source(
    name="cc12m",
    read=read,
    rows=12_423_374,
    rows_from="dataset card",
    expected_yield=0.623,
    yield_when="2025-10",
    yield_from="conceptual-12m issue 9: 7,740,121 of 12,423,374",
    resolution="over 400 px, at most 2.5:1",
    resolution_from="dataset card; hosts may serve less today",
    files=(("cc12m.tsv", "URL TAB caption, no header, 2.6 GB"),),
    licence="list: Google's terms for Conceptual 12M; images: their owners', not listed",
    licence_from="dataset card (licence: other)",
)
