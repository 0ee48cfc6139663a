"""Reads a small file that may have become a folder, a pipe or gigabytes, without waiting or filling memory."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_plain(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file.

    Args:
        path: a symbolic link is followed.
        max_bytes: a longer file is an error.

    Raises: OSError when there is none, it cannot be read, is not a regular file (a pipe without a writer would hold the
        reader forever) or is longer than `max_bytes`.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"longer than {max_bytes:,} bytes", str(path))
    return content
