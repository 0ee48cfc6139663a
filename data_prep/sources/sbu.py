"""SBU Captioned Photos: one JSON of parallel lists, or two text files whose lines belong together.

Captions hold HTML entities, some escaped twice (`&amp;amp;`, `&amp;quot;`): they are unescaped twice.
"""

from __future__ import annotations

import html
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from base.errors import UsageError
from data_prep.errors import InputError
from data_prep.lists.json_stream import stream_json_object
from data_prep.lists.published_file import lines
from data_prep.lists.row_list import SHOWN
from data_prep.sources.source import ListedRow, ListOptions, Source, web_row
from samples.quote import quote

JSON, URLS, CAPTIONS = (
    "sbu-captions-all.json",
    "SBU_captioned_photo_dataset_urls.txt",
    "SBU_captioned_photo_dataset_captions.txt",
)


def read(files: Sequence[Path], options: ListOptions, left_out: Counter[str]) -> Iterator[ListedRow]:
    """One row for each URL with its caption. Memory: one row; the JSON is read by two readers side by side.

    Raises: UsageError for other files than the published ones; InputError when lists differ in length.
    """
    if len(files) == 1 and ".json" in files[0].suffixes:
        pairs = itertools.zip_longest(_json_list(files[0], "image_urls"), _json_list(files[0], "captions"))
    elif len(files) == 2:
        urls, captions = sorted(files, key=_first_line_is_no_url)
        pairs = itertools.zip_longest(_lines(urls), _lines(captions))
    else:
        raise UsageError(f"sbu is {JSON}, or {URLS} and {CAPTIONS}", f"give the one or the two, not {len(files)} files")
    for number, (url, caption) in enumerate(pairs):
        if url is None or caption is None:
            raise InputError(
                f"{', '.join(path.name for path in files)}: row {number + 1} has only "
                f"{'a caption' if url is None else 'a URL'}, so rows before it may not belong together",
                "download the files again",
            )
        if not isinstance(url, str) or not isinstance(caption, str):
            yield ListedRow(captions=[], rejected=f"bad_row: {quote(url, SHOWN)}, {quote(caption, SHOWN)}")
            continue
        yield web_row(url, [html.unescape(html.unescape(caption))])


def _json_list(path: Path, name: str) -> Iterator[Any]:
    # A null must not look like the end of a list.
    return ("" if value is None else value for field, value in stream_json_object(path) if field == name)


def _lines(path: Path) -> Iterator[str]:
    return (line.decode("utf-8", "surrogateescape") for line in lines(path))


def _first_line_is_no_url(path: Path) -> bool:
    return not next(_lines(path), "").startswith(("http://", "https://"))


SBU = Source(
    name="sbu",
    read=read,
    rows=1_000_000,
    rows_from="dataset card",
    expected_yield=0.86,
    yield_when="2021",
    yield_from="ALBEF's 860 thousand of 1 million, recalled from the paper; no newer figure known",
    resolution="longest side 500 px",
    resolution_from="recalled: Flickr's medium size",
    files=(
        (JSON, "{image_urls, user_ids, captions}: three lists side by side"),
        (f"or {URLS} and {CAPTIONS}", "a line each"),
    ),
    licence="unknown; photographs of Flickr's users, each under its owner's terms",
    licence_from="dataset card (licence: unknown)",
)
