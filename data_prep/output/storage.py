"""Where an output lies: a folder on a disk, or an address that fsspec opens (`s3://bucket/prefix`).

A remote place has the methods of `pathlib.Path` that reading needs (universal_pathlib), so most code does not know the
difference. Writing does: a disk gets a temporary file and a rename, a store one object put, which is whole or nothing.
There are no locks in a store.
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

from data_prep.errors import FolderError, UsageError
from samples.quote import quote, quote_error


def place(text: str) -> Path:
    """A path, or what stands for one at an address; `file://` is a path.

    Raises: UsageError when the address cannot be opened with what is installed; FolderError when nobody answers there.
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
    except Exception as error:  # of whatever client library the store has
        raise FolderError(
            f"{quote(text, 200)} cannot be reached: {quote_error(error)}",
            "are the address, the network and the credentials of this machine right?",
        ) from error
    return cast(Path, remote)


def local_folder(text: str) -> Path:
    """A path of this machine, for what works on a disk only. Raises: UsageError for another address."""
    if "://" in text and not text.startswith("file://"):
        raise UsageError(f"{text} is an address, and this command works on a disk only", "give a folder")
    return place(text)


def is_remote(path: Path) -> bool:
    """Whether it is an address, not a path of this machine."""
    return not isinstance(path, Path)


def unpublished(final: Path, scratch: Path | None = None) -> Path:
    """A local name to write to before `publish`: beside the final one on a disk, else in `scratch`."""
    name = f".{final.name}.{os.getpid()}.tmp"
    if not is_remote(final):
        return final.with_name(name)
    return (scratch or Path(tempfile.gettempdir())) / f".{final.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"


def publish(written: Path, final: Path) -> None:
    """Let a written file appear under its final name, whole: by a rename on a disk, by one put in a store."""
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
    """Bytes of each file by name, of one listing; none when the folder is not there."""
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
    """A file opened for reading; a pipe under its name would keep the reader waiting for a writer.

    Raises: OSError, also for what is no regular file.
    """
    if not is_remote(path):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "is a folder" if stat.S_ISDIR(mode) else "is no regular file", str(path))
    return path.open("rb")


def is_gone(error: OSError) -> bool:
    """Whether there is no such file (or something that is none), and not only no permission or no disk to read it."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)


def file_sha256(path: Path) -> str:
    """In hexadecimal. Raises: OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_parquet(path: Path) -> pq.ParquetFile:
    """For reading by row groups."""
    return pq.ParquetFile(path.open("rb") if is_remote(path) else path)
