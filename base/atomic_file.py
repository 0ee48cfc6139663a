"""Files that are replaced whole or not at all, even if the process is killed or the machine goes down."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str, *, temporary: Path | None = None) -> None:
    """Write `text` to a file beside `path`, flush it to the disk, then rename it to `path`.

    Args:
        temporary: the file beside `path`, of which each of several writers needs its own. By default `.NAME.tmp`: what
            a killed process leaves there, the next write replaces.

    Raises: OSError when it cannot be written; `path` is then unchanged, and the file beside it is removed.
    """
    temporary = temporary or path.with_name(f".{path.name}.tmp")
    with replacing(path, temporary=temporary), temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    _flush_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of a value as indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


@contextlib.contextmanager
def replacing(path: Path, *, temporary: Path | None = None) -> Iterator[Path]:
    """The path of a file beside `path`, for the block to write: it becomes `path`, or after an error is removed.

    Nothing is flushed to the disk here.

    Args:
        temporary: the file beside `path`; by default `.NAME.PID.tmp`.
    """
    beside = temporary or path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _flush_folder(folder: Path) -> None:
    """Flush a rename to the disk, where the file system can: some mounts answer EINVAL."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)
