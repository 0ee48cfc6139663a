"""Images in a zip that is not unpacked: names as any tool writes them, and a reason for every unreadable member."""

from __future__ import annotations

import posixpath
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from samples.quote import quote

METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
"""Methods that Python unpacks."""
NAMES = {6: "Implode", 9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd", 99: "AES encryption"}
"""Methods that only other tools know: the Windows Explorer uses Deflate64 for files over 2 GB."""
ENCRYPTED, UTF8_NAME = 0x1, 0x800
"""Flag bits of a member."""


class NotRead(Exception):
    """`str()` is `reason: detail`, with reason missing_file, outside_images, file_too_large or unreadable_file."""


class ZipImages:
    """An open zip; may be read from threads, not from a process that was forked."""

    def __init__(self, path: Path) -> None:
        """Raises: ValueError when it is not a zip whose directory can be read; OSError."""
        try:
            self._archive = zipfile.ZipFile(path)
        except OSError:
            raise
        except Exception as error:  # zipfile raises many kinds for damaged directories
            raise ValueError(f"{type(error).__name__}: {quote(error)}") from error
        self._by_name: dict[str, zipfile.ZipInfo] = {}
        for info in self._archive.infolist():  # of two with one name the last counts, as where files are unpacked
            if not info.is_dir():
                for name in filter(None, map(plain_name, _spellings(info))):
                    self._by_name[name] = info

    @property
    def file(self) -> IO[bytes]:
        """The zip itself, as it was opened."""
        assert self._archive.fp is not None
        return self._archive.fp

    def names(self) -> Iterator[str]:
        """Names of its files, as written."""
        return (info.filename for info in self._archive.infolist() if not info.is_dir())

    def find(self, name: str) -> zipfile.ZipInfo | None:
        """The member of exactly that name, else the one with the same plain name."""
        exact = self._archive.NameToInfo.get(name)
        if exact is not None and not exact.is_dir():
            return exact
        plain = plain_name(name)
        return None if plain is None else self._by_name.get(plain)

    def read(self, info: zipfile.ZipInfo, max_bytes: int) -> bytes:
        """A member's bytes. Raises: NotRead."""
        if info.file_size > max_bytes:
            raise NotRead(f"file_too_large: {info.file_size} bytes, more than {max_bytes}")
        if info.flag_bits & ENCRYPTED:
            raise _unreadable(info, "needs a password; unzip it, and give the folder")
        if info.compress_type not in METHODS:
            method = NAMES.get(info.compress_type, f"method {info.compress_type}")
            raise _unreadable(info, f"is packed with {method}, not known here; unzip it, and give the folder")
        try:
            with self._archive.open(info) as member:
                data = member.read(info.file_size + 1)  # a wrong size must not make this read more
        except Exception as error:  # the decompressors raise many kinds for damaged bytes
            raise _unreadable(info, f"{type(error).__name__}: {quote(error)}") from error
        if len(data) != info.file_size:
            raise _unreadable(info, f"has {len(data)} bytes, {info.file_size} by the zip's directory")
        return data


def plain_name(name: str) -> str | None:
    r"""A name without `./`, `//` and inner `..`, with `/` for `\\`, composed (NFC); None for a name that leads out.

    `/a.jpg` is `a.jpg`, as where a zip is unpacked.
    """
    path = posixpath.normpath(unicodedata.normalize("NFC", name).replace("\\", "/").lstrip("/"))
    return None if path in ("", ".", "..") or path.startswith("../") else path


def _spellings(info: zipfile.ZipInfo) -> Iterator[str]:
    """A member's name as Python decodes it, and as UTF-8 where it is UTF-8 without the flag (Info-ZIP, macOS)."""
    yield info.filename
    if not info.flag_bits & UTF8_NAME and not info.filename.isascii():
        try:
            yield info.filename.encode("cp437").decode("utf-8")
        except UnicodeError:
            return


def _unreadable(info: zipfile.ZipInfo, why: str) -> NotRead:
    return NotRead(f"unreadable_file: {quote(info.filename, 60)} {why}")
