"""Storage locations: a folder on a disk, or a URI that fsspec opens (`s3://bucket/prefix`).

A remote location has the methods of `pathlib.Path` that reading needs (universal_pathlib), so most code does not know
the difference. Writing differs: on a disk a temporary file is renamed, in a store one object is put, whole or not at
all. A store has no locks.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import tempfile
from io import BufferedReader
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import pyarrow.parquet as pq

from base.errors import UsageError
from data_prep.errors import FolderError
from samples.quote import quote, quote_error


def storage_location(text: str) -> Path:
    """The path that `text` names, or universal_pathlib's for a URI; `file://` is a path.

    Raises: UsageError when the installed packages cannot open the URI; FolderError when its store does not answer.
    """
    protocol, separator, _ = text.partition("://")
    if not separator:
        return Path(text)
    if protocol == "file":
        return Path(unquote(urlsplit(text).path))
    if protocol == "memory":
        raise UsageError(f"{text} is the memory of one process, and several write", "give a folder or a store")
    try:
        from upath import UPath

        # Listings change while other processes write: never from a cache.
        remote = UPath(text.rstrip("/"), use_listings_cache=False)
        remote.exists()
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"{quote(text, 200)} cannot be opened: {quote_error(error)}",
            f"pip install universal-pathlib and fsspec's package for {protocol}:// (s3fs, gcsfs, adlfs)",
        ) from error
    except Exception as error:  # of the store's client library
        raise FolderError(
            f"{quote(text, 200)} cannot be reached: {quote_error(error)}",
            "are the URI, the network and the credentials of this machine right?",
        ) from error
    return cast(Path, remote)


def local_folder(text: str) -> Path:
    """A path of this machine, for what works on a disk only. Raises: UsageError for a URI of a store."""
    if "://" in text and not text.startswith("file://"):
        raise UsageError(f"{text} is a URI, and this command works on a disk only", "give a folder")
    return storage_location(text)


def is_remote(path: Path) -> bool:
    """Whether it is in a store, not a path of this machine."""
    return not isinstance(path, Path)


def unpublished(final: Path, scratch: Path | None = None) -> Path:
    """A local name to write to before `publish`: beside the final one on a disk, else in `scratch`."""
    name = f".{final.name}.{os.getpid()}.tmp"
    if not is_remote(final):
        return final.with_name(name)
    return (scratch or Path(tempfile.gettempdir())) / f".{final.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"


def publish(written: Path, final: Path) -> None:
    """Make a written file appear under its final name, whole: by a rename on a disk, by one put in a store."""
    if not is_remote(final):
        os.replace(written, final)
        return
    remote = cast(Any, final)
    remote.fs.put_file(str(written), remote.path)
    written.unlink()


def move(before: Path, after: Path) -> None:
    """Rename a file."""
    if not is_remote(before):
        os.replace(before, after)
        return
    remote = cast(Any, before)
    remote.fs.mv(remote.path, cast(Any, after).path)


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file by name, from one listing; empty when the folder does not exist."""
    if is_remote(folder):
        remote = cast(Any, folder)
        try:
            listed = remote.fs.ls(remote.path, detail=True)
        except FileNotFoundError:
            return {}
        return {entry["name"].rpartition("/")[2]: entry["size"] for entry in listed if entry["type"] == "file"}
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except FileNotFoundError:
        return {}


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading. A pipe under that name would block the reader until somebody writes to it.

    Raises: OSError, also for anything that is no regular file.
    """
    if not is_remote(path):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "is a folder" if stat.S_ISDIR(mode) else "is no regular file", str(path))
    return path.open("rb")


def is_gone(error: OSError) -> bool:
    """Whether there is no such regular file, as opposed to one that a permission or a broken disk makes unreadable."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)


def file_sha256(path: Path) -> str:
    """In hexadecimal. Raises: OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_parquet(path: Path) -> pq.ParquetFile:
    """For reading by row groups."""
    return pq.ParquetFile(path.open("rb") if is_remote(path) else path)
