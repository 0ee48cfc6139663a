"""Open files that a user names: a regular file that may be read, or an error that names what is there instead."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from albef.errors import CheckpointError
from samples.json_text import decode_text
from samples.plain_file import read_plain

MAX_TEXT_BYTES = 64 << 20
"""Limit on a text file of a model folder; the largest, a tokenizer.json of a large vocabulary, has a few megabytes."""


def check_readable(path: Path, *, hint: str) -> None:
    """Raise a CheckpointError unless `path` is a regular file that this user may read.

    A folder, or a named pipe without a writer, is detected without opening it.

    Args:
        hint: how to fix it if there is no such file.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
            return
    except OSError as error:
        raise unreadable(path, error, hint=hint) from error
    raise CheckpointError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}", hint)


def check_folder(path: Path, *, hint: str) -> None:
    """Raise a CheckpointError unless `path` is a folder that this user may list."""
    try:
        os.scandir(path).close()
    except OSError as error:
        raise unreadable(path, error, hint=hint) from error


def unreadable(path: Path, error: OSError, *, hint: str) -> CheckpointError:
    """The error for an OSError on `path`; a missing permission is reported as such, not as damage."""
    if error.errno == errno.ENOENT or (error.errno == errno.ENOTDIR and not os.path.exists(path)):
        return CheckpointError(f"{path} does not exist", hint)
    if error.errno == errno.ENOTDIR:
        return CheckpointError(f"{path} is not a folder", hint)
    if error.errno in (errno.EACCES, errno.EPERM):
        return CheckpointError(
            f"{path} may not be read: {error.strerror}",
            "the file is not damaged: ask its owner for read permission on it and on the folders above it (chmod)",
        )
    return CheckpointError(f"{path} cannot be read: {error.strerror or error}", "is the disk still there? " + hint)


def read_bytes(path: Path, *, hint: str) -> bytes:
    """The content of a small file of a model folder.

    Raises: CheckpointError when it is no readable file, or is larger than MAX_TEXT_BYTES.
    """
    check_readable(path, hint=hint)
    try:
        return read_plain(path, MAX_TEXT_BYTES)
    except OSError as error:
        raise unreadable(path, error, hint=hint) from error


def read_text(path: Path, *, hint: str) -> str:
    """The text of a file of a model folder, with or without a byte order mark.

    Raises: CheckpointError as `read_bytes`, and when it is not UTF-8.
    """
    try:
        return decode_text(read_bytes(path, hint=hint))
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read: {error}", hint) from error
