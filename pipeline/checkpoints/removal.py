"""Remove checkpoints: only folders that this pipeline made, and in them only files that it writes.

People keep copies and notes beside checkpoints, and inside them. A folder is ours if it is a real folder (no link) with
the name of a step, and its record (`made_by_pipeline.step_00001000`) or its `meta.json` names the same step; a copy
under another name is not ours. Other files and folders that are in the way are renamed, never removed.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from albef.errors import CheckpointError
from pipeline.checkpoints.meta import META, read_meta, step_of

log = logging.getLogger(__name__)

_RECORD = "pipeline pretrain made this folder, and removes it when it is due. A copy under another name is yours.\n"
_OUR_FILES = re.compile(
    r"[a-z0-9_]+_states\.pt|(teacher|queue|random_rank_[0-9]{5})\.safetensors|model_config\.json"
    r"|\.(meta\.json|[a-z0-9_]+\.safetensors)\.([0-9a-f]+\.)?tmp"
)
"""Files of a checkpoint that its meta.json may not list: DeepSpeed's, ours, and remains of a killed write."""


def record_of(target: Path) -> Path:
    """The file that a save creates first in a checkpoint's folder, so that the remains of a killed save can be
    removed."""
    return target / f"made_by_pipeline.{target.name}"


def claim(target: Path) -> None:
    """Create an empty folder for a checkpoint, with the record that it is ours.

    An earlier save of the step is removed; anything else under this name is renamed.

    Raises: OSError when the folder cannot be created.
    """
    if not unpublish(target):
        set_aside(target)
    target.mkdir(parents=True)
    record_of(target).write_text(_RECORD)


def unpublish(target: Path) -> bool:
    """Remove a checkpoint's folder if it is ours; `meta.json` first, so that a partly removed one is never used.

    Files in it that we do not write stay, and so does the folder. A warning is logged for files that cannot be removed
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
        ours = {record, META} | _listed(target)
        present = [entry.name for entry in os.scandir(target) if entry.is_file(follow_symlinks=False)]
        present = [name for name in present if name in ours or _OUR_FILES.fullmatch(name)]
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


def _listed(target: Path) -> set[str]:
    """The files that the folder's meta.json lists; none if it is damaged, missing or of another step."""
    try:
        return set(read_meta(target).files)
    except CheckpointError:
        return set()
