"""Removing checkpoints: only folders that this pipeline made, and in them only files that it writes.

People keep copies and notes beside checkpoints, and inside them. A folder is ours if it is a real folder (no link) with
the name of a step, and its record (`made_by_pipeline.step_00001000`, by name) or its `meta.json` is of that step too: a
copy under another name is not. Other things that are in the way are renamed, never removed.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from albef.errors import CheckpointError
from pipeline.checkpoint_meta import META, read_meta, step_of

log = logging.getLogger(__name__)

_RECORD = "pipeline pretrain made this folder, and removes it when it is due. A copy under another name is yours.\n"
_OUR_FILES = re.compile(
    r"[a-z0-9_]+_states\.pt|(teacher|queue|random_rank_[0-9]{5})\.safetensors|model_config\.json"
    r"|\.(meta\.json|[a-z0-9_]+\.safetensors)\.([0-9a-f]+\.)?tmp"
)
"""Files of a checkpoint beside those that its meta.json lists: DeepSpeed's, ours, and what a killed write left."""


def record_of(target: Path) -> Path:
    """The file that a save makes first in a checkpoint's folder, so that what a kill leaves of it can be removed."""
    return target / f"made_by_pipeline.{target.name}"


def claim(target: Path) -> None:
    """Make an empty folder for a checkpoint, with the record that it is ours.

    What is there of an earlier save of the step is removed; anything else is renamed.

    Raises: OSError when the folder cannot be made.
    """
    if not unpublish(target):
        set_aside(target)
    target.mkdir(parents=True)
    record_of(target).write_text(_RECORD)


def unpublish(target: Path) -> bool:
    """Remove a checkpoint's folder if it is ours; `meta.json` first, so that half of it is never taken for one.

    Files in it that we do not write stay, with the folder. What cannot be removed (busy, read-only) is warned of.

    Returns: whether there is nothing under this name now.
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
        # The record last: what an error leaves behind is still known as ours.
        for name in sorted(present, key=lambda name: (name != META, name == record)):
            (target / name).unlink(missing_ok=True)
        target.rmdir()
    except OSError as error:
        log.warning("%s is not removed, or not all of it: %s", target, error.strerror or error)
        return False
    return True


def is_leftover(target: Path) -> bool:
    """Whether a folder is ours and was never finished: a save was killed."""
    return not os.path.lexists(target / META) and _is_ours(target)


def set_aside(path: Path) -> Path:
    """Rename what is not ours and in the way, to the first free name `NAME.kept`, `NAME.kept_2`, ...; logged.

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
    """The files that the folder's meta.json lists, if it is of this folder; none if it is damaged or missing."""
    try:
        return set(read_meta(target).files)
    except CheckpointError:
        return set()
