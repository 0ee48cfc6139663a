"""Reads the original's annotation files: a JSON list of {"image": path, "caption": text or list of texts}."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from data_prep.lists.json_stream import stream_json_list
from data_prep.lists.list_columns import ListColumns
from data_prep.lists.published_file import check_is_file
from data_prep.lists.row_list import ListedImage
from data_prep.lists.url_list import read_records

NO_FLAGS = ListColumns(url="path", local=True)
"""Columns of `pack` when no flag names one."""


def read_annotations(path: Path, columns: ListColumns = NO_FLAGS) -> Iterator[ListedImage]:
    """Entries in the file's order, one image each; the image's path stays as written.

    Args:
        columns: names of an entry's fields; the path is in `image` unless `--path-col` says otherwise.
    Raises: InputError for a file that is missing or is not a JSON list; UsageError for a field that no entry has.
    """
    check_is_file(path, "give existing files with --annotations")
    if columns.url == NO_FLAGS.url:
        columns = dataclasses.replace(columns, url="image")
    return read_records(path, ((None, entry) for entry in stream_json_list(path)), columns)
