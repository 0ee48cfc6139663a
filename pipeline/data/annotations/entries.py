"""Reads an annotation file: a JSON list whose entries a task checks one by one. All faults are reported at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef.errors import DataError
from pipeline.data.annotations.images import AnnotationImages
from samples.json_text import parse_json
from samples.plain_file import read_plain
from samples.quote import quote
from samples.text_files import HEAD_BYTES, conversion_hint, wide_encoding

MAX_FILE_BYTES = 4 << 30
"""Largest size of an annotation file; a larger one is an error."""
MAX_FAULTS = 10
"""Largest number of faults that one message lists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One annotation, checked."""

    images: tuple[str, ...]
    """Names of its images: paths below a root, or the keys or URLs of samples in shards."""
    row: dict[str, Any]
    """What the task's batcher needs of it, as JSON values."""
    key: str = ""
    """Its name in the file, such as a question's number; empty where it has none."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """The entries that a task's annotation files have."""

    layout: str
    """How an entry looks, for messages: `{"image": name, "sentence": text}`."""
    check: Callable[[dict[str, Any]], Entry]
    """Makes an Entry of one entry of the list, an object. Raises: ValueError with what is wrong with it."""


def read_entries(file: str | Path, form: Format, images: AnnotationImages) -> list[Entry]:
    """The entries of a file, in its order.

    Args:
        images: must have every image that an entry names.

    Raises: DataError for a file that is no list in `form`, with each entry that is wrong and what is wrong with it.
    """
    values = _read_list(file, form)
    entries: list[Entry] = []
    faults: list[str] = []
    keys: dict[str, int] = {}
    there: dict[str, bool] = {}
    for number, value in enumerate(values):
        try:
            if not isinstance(value, dict):
                raise ValueError(f"is a {type(value).__name__}, not an object")
            entry = form.check(value)
            for name in entry.images:
                if name not in there:
                    there[name] = images.has(name)
                if not there[name]:
                    raise ValueError(f"names the image {quote(name)}, which is not {images.place()}")
            if entry.key and keys.setdefault(entry.key, number) != number:
                raise ValueError(f"has the number {quote(entry.key)} of entry {keys[entry.key]}")
        except ValueError as error:
            faults.append(f"entry {number} {error}")
            continue
        entries.append(entry)
    if faults:
        shown = faults[:MAX_FAULTS] + ([f"and {len(faults) - MAX_FAULTS:,} more"] if len(faults) > MAX_FAULTS else [])
        raise DataError(
            f"{quote(file)}: {len(faults):,} of {len(values):,} entries cannot be used:\n  " + "\n  ".join(shown),
            f"each entry is {form.layout}",
        )
    return entries


def text_of(value: dict[str, Any], name: str) -> str:
    """The text under `name`. Raises: ValueError when there is none."""
    if name not in value:
        raise ValueError(f"has no {name}")
    text = value[name]
    if not isinstance(text, str):
        raise ValueError(f"has {quote(repr(text), 40)} as {name}, which is no text")
    return text


def _read_list(file: str | Path, form: Format) -> list[Any]:
    file = Path(file)
    hint = f"a list of {form.layout} is expected"
    try:
        data = read_plain(file, MAX_FILE_BYTES)
    except OSError as error:
        raise DataError(f"annotation file {quote(file)}: {error.strerror}", "check its path") from error
    except ValueError as error:
        raise DataError(f"annotation file {quote(file)}: {error}", hint) from error
    if (encoding := wide_encoding(data[:HEAD_BYTES])) is not None:
        raise DataError(f"annotation file {quote(file)} is {encoding}, not UTF-8", conversion_hint(encoding))
    try:
        values = parse_json(data)
    except ValueError as error:
        raise DataError(f"annotation file {quote(file)} is not JSON: {quote(error)}", hint) from error
    if not isinstance(values, list):
        raise DataError(f"annotation file {quote(file)} holds a {type(values).__name__}, not a list", hint)
    if not values:
        raise DataError(f"annotation file {quote(file)} holds no entry", hint)
    return values
