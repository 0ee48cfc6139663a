"""What data_prep may delete or replace: files under names that only it gives, in folders that it made.

A folder given with `--out` or `--work` may be one that a person already uses. Everything else there stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from data_prep.errors import FolderError
from data_prep.output.system_files import is_system_file

_UNPUBLISHED = re.compile(r"\.(?P<final>.+)\.[0-9]+(-[0-9a-f]{8})?\.(tmp|shorter)")
"""`.NAME.PID.tmp` and `.NAME.PID-RANDOM.tmp`: what is written before it is renamed to NAME."""
_IN_WORK = re.compile(r"lock|shards\.lock|out\.txt|part-[0-9]+-of-[0-9]+|starts\..*\.log")
"""Names that the first process in a work folder makes there."""


def leftovers(folder: Path, is_final: Callable[[str], bool]) -> Iterator[Path]:
    """Temporary files that killed processes left, of files whose final name is one of ours.

    Args:
        is_final: whether a name is one that the caller gives its files in this folder.
    """
    for path in folder.glob(".*"):
        match = _UNPUBLISHED.fullmatch(path.name)
        if match is not None and is_final(match["final"]) and path.is_file():
            yield path


def remove_leftovers(folder: Path, is_final: Callable[[str], bool]) -> None:
    """Delete `leftovers`; no other process may be writing them."""
    for path in leftovers(folder, is_final):
        path.unlink(missing_ok=True)


def check_new(root: Path, record: Path, names: Collection[str]) -> None:
    """Check that a folder without a record holds none of the files and folders that would be written there.

    Raises: FolderError naming the first one; folders that are empty, or hold a .DS_Store only, do not count.
    """
    for name in names:
        path = root / name
        if path.exists() and not (path.is_dir() and all(is_system_file(entry.name) for entry in path.iterdir())):
            raise FolderError(f"{path} exists but {record} is missing", f"use an empty --out, or restore {record.name}")


def check_work(work: Path, names: Collection[str]) -> None:
    """Raises: FolderError for a work folder that is not ours and holds a file we would write."""
    entries = {path.name for path in work.iterdir()} if work.is_dir() else set()
    theirs = sorted(entries.intersection(names))
    if theirs and not any(map(_IN_WORK.fullmatch, entries)):
        raise FolderError(
            f"{work / theirs[0]} exists, and data_prep did not write it",
            "work in progress needs a separate folder: move that, or give another --out (or --work)",
        )


def check_replaceable(path: Path, is_ours: Callable[[Path], bool], flag: str) -> None:
    """Raises: FolderError for a file that is there and that the command did not write."""
    if path.exists() and not is_ours(path):
        raise FolderError(
            f"{path} exists and was not written by this command: it is not replaced",
            f"move it, or give another {flag}",
        )
