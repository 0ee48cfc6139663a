"""Remove checkpoints: only folders that this pipeline made, and in them only files that it writes.

People keep copies and notes beside checkpoints, and inside them. A folder is ours if it is a real folder (no link) with
the name of a step, and its record (`made_by_pipeline.step_00001000`) or its `meta.json` names the same step; a copy
under another name is not ours. A file in it is ours if the record or `meta.json` lists it: a save writes the names of
all its files into the record before it writes the files. Records of earlier versions list none. Other files and folders
that are in the way are renamed, never removed.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from albef.errors import CheckpointError
from pipeline.checkpoints.meta import META, read_meta, step_of
from samples.plain_file import read_plain

log = logging.getLogger(__name__)

_RECORD = "pipeline pretrain made this folder, and removes it when it is due. A copy under another name is yours.\n"
_MAX_RECORD_BYTES = 64 << 20
"""As of meta.json, which has the same names in it."""
_UNPUBLISHED = re.compile(r"\.(.+?)(\.[0-9]+)?\.tmp")
"""What a killed write leaves of a file, the first group: `.meta.json.tmp`, `.NAME.safetensors.4711.tmp`."""
_OF_SAFETENSORS = re.compile(r"\.tmp[0-9A-Za-z]{6}")
"""What safetensors writes before it renames it, by a random name that no record can list."""


def record_of(target: Path) -> Path:
    """The file that a save creates first in a checkpoint's folder, so that the remains of a killed save can be removed:
    a sentence for people, then the names of the files that the save writes, a line each."""
    return target / f"made_by_pipeline.{target.name}"


def claim(target: Path, files: Iterable[str]) -> None:
    """Create an empty folder for a checkpoint, with the record that it is ours, on the disk.

    An earlier save of the step is removed; anything else under this name is renamed.

    Args:
        files: names of the files that any rank is about to write.

    Raises: OSError when the folder cannot be created.
    """
    if not unpublish(target):
        set_aside(target)
    target.mkdir(parents=True)
    with record_of(target).open("w") as record:
        record.write(_RECORD + "".join(f"{name}\n" for name in sorted(files)))
        record.flush()
        os.fsync(record.fileno())


def unpublish(target: Path) -> bool:
    """Remove a checkpoint's folder if it is ours; `meta.json` first, so that a partly removed one is never used.

    Files in it that we did not write stay, and so does the folder. A warning is logged for files that cannot be removed
    (busy, read-only).

    Returns: whether nothing is left under this name.
    """
    if not os.path.lexists(target):
        return True
    try:
        if not _is_ours(target):
            target.rmdir()  # empty: a save was killed before it wrote its record
            return True
        record = record_of(target).name
        ours = {record, META} | _recorded(target) | _listed(target)
        present = [entry.name for entry in os.scandir(target) if entry.is_file(follow_symlinks=False)]
        killed = not os.path.lexists(target / META)
        present = [
            name
            for name in present
            if name in ours or _of_killed_write(name) in ours or (killed and _OF_SAFETENSORS.fullmatch(name))
        ]
        # The record last: if an error stops this, the rest still counts as ours.
        for name in sorted(present, key=lambda name: (name != META, name == record)):
            (target / name).unlink(missing_ok=True)
        target.rmdir()
    except OSError as error:
        log.warning("%s is not removed, or not all of it: %s", target, error.strerror or error)
        return False
    return True


def is_leftover(target: Path) -> bool:
    """Whether a folder is ours and unfinished, because a save was killed."""
    return not os.path.lexists(target / META) and _is_ours(target)


def set_aside(path: Path) -> Path:
    """Rename a file or folder that is in the way to the first free name of `NAME.kept`, `NAME.kept_2`, ...; logs it.

    Raises: OSError when it cannot be renamed.
    """
    number, free = 1, path.with_name(f"{path.name}.kept")
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}.kept_{number}")
    path.rename(free)
    log.warning("%s was in the way of a checkpoint and is not one this run can remove: renamed to %s", path, free.name)
    return free


def _is_ours(target: Path) -> bool:
    if step_of(target.name) is None or target.is_symlink() or not target.is_dir():
        return False
    return record_of(target).is_file() or bool(_listed(target))


def _recorded(target: Path) -> set[str]:
    """The files that the folder's record lists; none if there is no record, or it is damaged or of an earlier version.

    Only names of entries of the folder are looked up in them: a record cannot lead to any other file.
    """
    try:
        lines = read_plain(record_of(target), _MAX_RECORD_BYTES).decode().splitlines()
    except (OSError, ValueError):
        return set()
    return set(lines[1:])


def _of_killed_write(name: str) -> str:
    """The file that a temporary file would have become; empty for any other name."""
    match = _UNPUBLISHED.fullmatch(name)
    return match[1] if match else ""


def _listed(target: Path) -> set[str]:
    """The files that the folder's meta.json lists; none if it is damaged, missing or of another step."""
    try:
        return set(read_meta(target).files)
    except CheckpointError:
        return set()
