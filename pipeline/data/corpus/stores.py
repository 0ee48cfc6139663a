"""Manifests and shards that are not on a mounted disk: read by URL through fsspec, in byte ranges, with retries.

fsspec and a store's own package (s3fs, gcsfs, aiohttp ...) are imported at the first URL, in the process that reads:
their event loops do not survive a fork, and training from a disk needs none of them.
"""

from __future__ import annotations

import logging
import posixpath
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from albef.errors import DataError
from base.errors import UserError
from samples.quote import quote, without_memory_addresses

T = TypeVar("T")
log = logging.getLogger(__name__)

PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "sftp": "paramiko",
    "ssh": "paramiko",
}
"""The package to install for each common protocol; fsspec supports more."""

PAUSES_S = (0.5, 2.0, 5.0)
"""Pauses before a failed request is repeated: four tries in all, so that one lost response costs no sample."""


class NoRangesError(OSError):
    """The server sends whole files only."""


LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NoRangesError)
"""Faults that a retry does not fix."""


def is_url(path: str) -> bool:
    """Whether fsspec must fetch the path. `file://` is a local path (`plain`)."""
    return "://" in path


def plain(path: str) -> str:
    """`file:///a/b` becomes /a/b; everything else is unchanged."""
    return unquote(urlsplit(path).path) if path.startswith("file://") else path


def parent(url: str) -> str:
    """The URL of the folder."""
    return url.rpartition("/")[0]


def join(folder: str, path: str) -> str:
    """The URL of a path relative to a folder. Stores know no `..`, with which paths of a filtered corpus start."""
    while path.startswith("../"):
        folder, path = parent(folder), path.removeprefix("../")
    return f"{folder}/{path}"


def read_file(url: str) -> bytes:
    """The whole file.

    Raises: DataError when its protocol cannot be read here; the store's own error, after some tries.
    """
    store, path = _store(url)
    return patiently(lambda: store.cat_file(path), url)


def read_range(url: str, offset: int, length: int, size: int) -> bytes:
    """`length` bytes from `offset` of a file of `size` bytes; fewer where the file ends sooner.

    Raises: DataError when its protocol cannot be read here; NoRangesError; the store's own error, after some tries.
    """
    store, path = _store(url)

    def once() -> bytes:
        if url.startswith(("http://", "https://")):
            # fsspec's cat_file would download the whole file from a server without range support; its file object
            # checks the headers of the response first.
            try:
                with store.open(path, cache_type="none", size=size) as file:
                    file.seek(offset)
                    return file.read(length)
            except ValueError as error:
                raise NoRangesError(
                    "the server sends no byte ranges: stream whole shards instead, with data.shard_opener "
                    "`pipe:curl -sf {path}` and data.cache_dir"
                ) from error
        return store.cat_file(path, start=offset, end=offset + length)

    return patiently(once, url)


def sizes(urls: list[str]) -> dict[str, int] | None:
    """The size of each existing file, by URL, from one listing per folder; None where the store has no listing (http).

    Raises: DataError when the protocol cannot be read here; the store's own error, after some tries.
    """
    if any(url.startswith(("http://", "https://")) for url in urls):
        return None
    found: dict[str, int] = {}
    for folder in {parent(url) for url in urls}:
        store, path = _store(folder)
        try:
            entries = patiently(lambda store=store, path=path: store.ls(path, detail=True), folder)  # type: ignore[misc]
        except FileNotFoundError:
            continue
        found |= {f"{folder}/{posixpath.basename(entry['name'])}": entry["size"] for entry in entries}
    return found


def patiently(action: Callable[[], T], what: str) -> T:
    """The action's result; after a fault of the store, try again, with pauses.

    Raises: the store's last fault. MemoryError, and errors that only a bug raises, are raised at once.
    """
    for pause_s in (*PAUSES_S, None):
        try:
            return action()
        except Exception as error:
            if not is_store_fault(error) or isinstance(error, LASTING) or pause_s is None:
                raise
            log.debug("%s: %s, trying again in %g s", what, error, pause_s)
            time.sleep(pause_s)
    raise AssertionError("the last try returns or raises")


def fault(error: Exception) -> str:
    """A store's error for a message: on one line, shortened, without memory addresses."""
    return quote(without_memory_addresses(" ".join(str(error).split())) or type(error).__name__, 150)


def is_store_fault(error: Exception) -> bool:
    """Whether the error is the store's and not a bug: an OSError, or a class of the store's package.

    botocore, aiohttp and others derive their errors from Exception; a bug raises Python's built-in ones.
    """
    if isinstance(error, OSError | EOFError):
        return True
    return not isinstance(error, UserError) and type(error).__module__ != "builtins"


def _store(url: str) -> tuple[Any, str]:
    """fsspec's file system for the URL, and the path in it."""
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url)
    except ImportError as error:
        protocol = url.partition("://")[0].rpartition("::")[2]
        package = PACKAGES.get(protocol)
        raise DataError(
            f"{quote(url)}: {fault(error)}",
            f"pip install {package}" if package else f"install the package that fsspec needs for {protocol}://",
        ) from error
    except ValueError as error:  # "Protocol not known"
        raise DataError(
            f"{quote(url)}: {fault(error)}", "use s3://, gs://, http(s):// or another protocol of fsspec"
        ) from error
