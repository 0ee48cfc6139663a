"""Opens a text file as it was published: plain, compressed, or the one file in a zip; without its byte order mark."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from data_prep.errors import InputError
from samples.quote import quote
from samples.text_files import HEAD_BYTES, MARK, conversion_hint, wide_encoding

LOOKED_AT_BYTES = 1 << 16
MAX_LINE_BYTES = 64 << 20
"""Of a row of a list: without a bound, a file without line ends would be read into memory whole."""
_OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda path: pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"),
    ".zip": lambda path: _open_only_member(path),
}
COMPRESSED = tuple(_OPENERS)
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, pa.ArrowException, NotImplementedError)


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedReader]:
    """The content, unpacked, after its byte order mark.

    Raises: InputError for what is no file, is damaged, holds several files, or is text in wide characters.
    """
    check_is_file(path)
    opener = _OPENERS.get(path.suffix.lower())
    try:
        with contextlib.ExitStack() as stack:
            raw = stack.enter_context(opener(path) if opener else io.FileIO(path))
            file = stack.enter_context(io.BufferedReader(raw, LOOKED_AT_BYTES))
            head = file.peek(HEAD_BYTES)[:HEAD_BYTES]
            if (encoding := wide_encoding(head)) is not None:
                raise InputError(f"{path} is {encoding}, not UTF-8", conversion_hint(encoding))
            if head.startswith(MARK):
                file.read(len(MARK))
            yield file
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    except RuntimeError as error:  # zipfile's, of a member with a password
        raise _damaged(path, error) if path.suffix.lower() == ".zip" else error from error
    except OSError as error:
        if error.errno is not None or opener is None:
            raise
        raise _damaged(path, error) from error  # bz2's and pyarrow's, of damaged data


@contextlib.contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """`open_bytes` as UTF-8 text; bytes that are not UTF-8 become lone surrogates, so that only their row is lost."""
    with open_bytes(path) as file, io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape") as text:
        yield text


def lines(path: Path) -> Iterator[bytes]:
    """Lines without their ends: LF, CRLF, or CR alone where the beginning of the file has no LF.

    Raises: InputError as `open_bytes` does, and for a line of more than 64 MiB.
    """
    with open_bytes(path) as file:
        head = file.peek(LOOKED_AT_BYTES)
        cr_only = b"\r" in head and b"\n" not in head
        number = 0
        for number, line in enumerate(_cr_lines(file) if cr_only else _lf_lines(file), start=1):
            if len(line) > MAX_LINE_BYTES:
                raise InputError(
                    f"{path}, line {number} has more than {MAX_LINE_BYTES >> 20} MiB", "is it a list, a line a row?"
                )
            yield line.rstrip(b"\r\n")


def check_is_file(path: Path, hint: str = "give an existing file") -> None:
    """Raises: InputError, with the hint, for a missing file, a folder, or a pipe (a list is read more than once)."""
    if path.is_dir():
        raise InputError(f"{path} is a folder", hint)
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no plain file", hint)
    if not path.exists():
        raise InputError(f"file not found: {path}", hint)


def _lf_lines(file: io.BufferedReader) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE_BYTES + 1):
        yield line


def _cr_lines(file: io.BufferedReader) -> Iterator[bytes]:
    rest = b""
    while chunk := file.read(LOOKED_AT_BYTES):
        *whole, rest = (rest + chunk).split(b"\r")
        yield from whole
        if len(rest) > MAX_LINE_BYTES:
            break
    if rest:
        yield rest


def _damaged(path: Path, error: BaseException) -> InputError:
    return InputError(f"{path}: cannot be unpacked: {quote(error)}", "download it again, or unpack it yourself")


def _open_only_member(path: Path) -> IO[bytes]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
        if len(names) != 1:
            raise InputError(f"{path} holds {len(names)} files", "unpack it, and name the file that is meant")
        return archive.open(names[0])
