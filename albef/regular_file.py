"""A file that can be opened and read to its end, or an error that says what stands in its place."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

from albef.errors import CheckpointError


def check_readable(path: Path, *, hint: str) -> None:
    """Raise a CheckpointError unless `path` is a regular file that this user may read.

    A folder, or a named pipe whose writer never comes, is found without opening it.

    Args:
        hint: the way out where there is no such file.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
            return
    except OSError as error:
        raise unreadable(path, error, hint=hint) from error
    raise CheckpointError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}", hint)


def unreadable(path: Path, error: OSError, *, hint: str) -> CheckpointError:
    """What the operating system's refusal to open or read `path` means; a missing permission is no damage."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return CheckpointError(f"{path} does not exist", hint)
    if error.errno in (errno.EACCES, errno.EPERM):
        return CheckpointError(
            f"{path} may not be read: {error.strerror}",
            "the file is not damaged: ask its owner for read permission on it and on the folders above it (chmod)",
        )
    return CheckpointError(f"{path} cannot be read: {error.strerror or error}", "is the disk still there? " + hint)
