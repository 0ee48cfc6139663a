"""Opens a source's file as it was published: plain, gzipped, or the one file in a zip."""

from __future__ import annotations

import contextlib
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from data_prep.errors import InputError


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """The content, whatever it is wrapped in.

    Raises: InputError for a file that is missing, a damaged archive, or a zip that holds several files.
    """
    if not path.is_file():
        raise InputError(f"file not found: {path}", "give an existing file")
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as unzipped, io.BufferedReader(unzipped) as buffered:
                yield buffered
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive, archive.open(_only_member(path, archive)) as member:
                yield member
        else:
            with open(path, "rb") as file:
                yield file
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path}: damaged archive: {error}", "download it again") from error


@contextlib.contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """The same as UTF-8 text; bytes that are none become lone surrogates, so that only their row is lost."""
    with open_bytes(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape") as text:
        yield text


def _only_member(path: Path, archive: zipfile.ZipFile) -> str:
    names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
    if len(names) != 1:
        raise InputError(f"{path} holds {len(names)} files", "unpack it, and name the file that is meant")
    return names[0]
