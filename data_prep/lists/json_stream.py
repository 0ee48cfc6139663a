"""Reads JSON files of gigabytes one element at a time: a list, or the lists inside one object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from data_prep.errors import InputError
from data_prep.lists.published_file import open_text

CHUNK_CHARACTERS = 1 << 20
MAX_VALUE_CHARACTERS = 64 << 20
"""A longer value is taken for broken: without a bound the whole file would be read in search of its end."""
_BETWEEN = " \t\r\n,:"
REPAIR = "repair or download the file again"


def stream_json_list(path: Path) -> Iterator[Any]:
    """Elements of a JSON list. Memory: one element and a megabyte of text.

    Raises: InputError naming the place where the file stops being a JSON list.
    """
    with open_text(path) as file:
        reader = _Reader(path, file)
        if (first := reader.peek()) != "[":
            hint = "; a file with an object a line is named .jsonl" if first == "{" else ""
            raise InputError(
                f"{path} is not a JSON list", f'it should be [{{"image": "a.jpg", "caption": "..."}}, ...]{hint}'
            )
        yield from reader.elements()
        reader.check_end()


def stream_json_object(path: Path) -> Iterator[tuple[str, Any]]:
    """(name, value) of a JSON object's fields in the file's order; of a list, (name, element) for each element.

    Raises: InputError naming the place where the file stops being a JSON object.
    """
    with open_text(path) as file:
        reader = _Reader(path, file)
        if reader.peek() != "{":
            raise InputError(f"{path} is not a JSON object", "see `data_prep sources` for the files of each source")
        reader.skip()
        while reader.peek() != "}":
            name = reader.value()
            if reader.peek() == "[":
                for element in reader.elements():
                    yield name, element
            else:
                yield name, reader.value()
        reader.skip()
        reader.check_end()


class _Reader:
    """A text and a position in it. Separators between values are skipped, not checked: files are read, not linted."""

    def __init__(self, path: Path, file: IO[str]) -> None:
        self._path = path
        self._file = file
        self._buffer = ""
        self._position = 0
        self._done = 0
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no separator; raises InputError at the end of the file."""
        character = self._next()
        if character is None:
            raise InputError(f"{self._path}: broken JSON after {self._done} entries: it ends too early", REPAIR)
        return character

    def check_end(self) -> None:
        """Raises: InputError for anything after the whole value, such as a second list, which would not be read."""
        if self._next() is not None:
            raise InputError(
                f"{self._path} does not end after its {self._done} entries", "give each list as a separate file"
            )

    def _next(self) -> str | None:
        while True:
            while self._position < len(self._buffer):
                if self._buffer[self._position] not in _BETWEEN:
                    return self._buffer[self._position]
                self._position += 1
            if not self._more():
                return None

    def skip(self) -> None:
        """Pass over the character that `peek` returned."""
        self._position += 1

    def elements(self) -> Iterator[Any]:
        """Elements of the list that begins here, to its end."""
        assert self.peek() == "["
        self.skip()
        while self.peek() != "]":
            yield self.value()
        self.skip()

    def value(self) -> Any:
        """The value that begins here."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._position)
            except RecursionError as error:
                raise InputError(f"{self._path}: entry {self._done + 1} is nested too deep", REPAIR) from error
            except ValueError as error:
                if len(self._buffer) - self._position > MAX_VALUE_CHARACTERS or not self._more():
                    raise InputError(
                        f"{self._path}: broken JSON after {self._done} entries: {error}", REPAIR
                    ) from error
                continue
            if end == len(self._buffer) and self._more():  # a number may continue
                continue
            self._position = end
            self._done += 1
            return value

    def _more(self) -> bool:
        chunk = self._file.read(CHUNK_CHARACTERS)
        self._buffer, self._position = self._buffer[self._position :] + chunk, 0
        return bool(chunk)
