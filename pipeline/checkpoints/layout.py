"""Publish, find, verify and prune checkpoints. `saving.py` writes them, `loading.py` loads them.

A checkpoint is DeepSpeed's own folder `checkpoints/step_00001000/` with our files beside its own: what the task keeps
beside the engine, each rank's random state, the model's shape, and `meta.json`, written last, with the size and SHA-256
of every file. A folder without a `meta.json` was never finished and is never read. `checkpoints/latest` names the
newest one and is replaced by an atomic rename, so that at any instant there is a good checkpoint to resume from.

Only folders whose name is exactly a step's are checkpoints. Folders with other names, such as a person's copy
`step_00001000_good`, are ignored. `pipeline.checkpoints.removal` has the rules for what is removed.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from albef.errors import CheckpointError
from base import atomic_file
from pipeline.checkpoints.meta import (
    META,
    USE_ANOTHER,
    CheckpointMeta,
    new_meta,
    read_meta,
    step_of,
    step_tag,
    write_meta,
)
from pipeline.checkpoints.removal import is_leftover, set_aside, unpublish
from pipeline.config.sections import CheckpointConfig
from samples.plain_file import read_plain
from samples.quote import quote

__all__ = [
    "META",
    "MODEL_CONFIG",
    "CheckpointMeta",
    "digest",
    "find_checkpoint",
    "has_checkpoints",
    "latest_name",
    "new_meta",
    "prune_checkpoints",
    "publish",
    "random_state_file",
    "read_meta",
    "resolve_checkpoint",
    "saved_steps",
    "state_file",
    "step_of",
    "step_tag",
    "survey_checkpoints",
    "unpublish",
    "verify_checkpoint",
]

log = logging.getLogger(__name__)

LATEST = "latest"
MODEL_CONFIG = "model_config.json"
"""The file of `Task.shape`."""
MAX_LATEST_BYTES = 100
WHERE = "give a run folder, its checkpoints folder, or one of the step_* folders in it"


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The checkpoint of a folder that is taken, and those that were tried before it."""

    taken: tuple[Path, CheckpointMeta] | None
    passed_over: dict[str, str]
    """Name of a checkpoint, or `latest` -> why it cannot be used."""
    num_published: int
    """Number of those that were finished once."""


def state_file(name: str) -> str:
    """The file of one part of `Task.state`."""
    return f"{name}.safetensors"


def random_state_file(rank: int) -> str:
    """The file of a rank's random states."""
    return f"random_rank_{rank:05d}.safetensors"


def publish(target: Path, meta: CheckpointMeta) -> None:
    """Write `meta.json`, then `latest`, each by an atomic rename: from then on runs can resume from the checkpoint.

    Args:
        target: the checkpoint's folder, with every file on the disk.
        meta: with the size and digest of every file.

    Raises: OSError when they cannot be written; `latest` is then unchanged.
    """
    write_meta(target, meta)
    latest = target.parent / LATEST
    if os.path.lexists(latest) and (latest.is_symlink() or not latest.is_file()):
        set_aside(latest)  # not written by us; a rename cannot replace a folder
    atomic_file.write_text(latest, target.name)


def latest_name(folder: Path) -> str | None:
    """The checkpoint that `latest` names; None when there is no such file, or it names no step, or it is damaged."""
    step = _step_of_latest(folder)[0]
    return None if step is None else step_tag(step)


def _step_of_latest(folder: Path) -> tuple[int | None, str]:
    """The step that `latest` names, or None and the reason; the reason is empty if there is no such file."""
    try:
        text = read_plain(folder / LATEST, MAX_LATEST_BYTES)
        step = step_of(text.decode("ascii").strip())
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"it cannot be read: {error.strerror or error}"
    except ValueError:
        step = None
    if step is None:
        return None, f"it holds {quote(text)}, the name of no checkpoint" if text else "it is empty"
    return step, ""


def saved_steps(folder: Path) -> dict[int, Path]:
    """Step -> its folder, finished or not, the newest first. A link to a folder counts, because checkpoints may be
    moved.

    Raises: CheckpointError when the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            found = {step: Path(entry.path) for entry in entries if (step := step_of(entry.name)) is not None}
        return {step: found[step] for step in sorted(found, reverse=True) if found[step].is_dir()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {quote(error)}", "make it readable") from None


def has_checkpoints(folder: Path) -> bool:
    """Whether any checkpoint was ever finished in the folder, damaged or not.

    Raises: CheckpointError when the folder cannot be read.
    """
    return any(os.path.lexists(path / META) for path in saved_steps(folder).values())


def find_checkpoint(folder: Path, steps: Iterable[int] | None = None) -> tuple[Path, CheckpointMeta] | None:
    """The checkpoint that every command takes if it is given a run; None if there is none.

    A checkpoint that is incomplete, or whose files do not match their checksums, is skipped with a warning.

    Args:
        steps: see `survey_checkpoints`.

    Raises: CheckpointError when checkpoints were published but none is whole: starting again would overwrite them.
    """
    survey = survey_checkpoints(folder, steps)
    for name, fault in survey.passed_over.items():
        log.warning("%s cannot be used: %s", folder / name, fault)
    if survey.taken is not None:
        if survey.passed_over:
            log.warning("resuming from %s, the newest whole checkpoint", survey.taken[0].name)
    elif survey.num_published:
        raise CheckpointError(
            f"none of the {survey.num_published} checkpoints in {folder} can be used: "
            + list(survey.passed_over.values())[-1],
            "restore the files, or start again with another --run-dir",
        )
    return survey.taken


def survey_checkpoints(folder: Path, steps: Iterable[int] | None = None, *, checksums: bool = True) -> Survey:
    """Check one checkpoint after another until one is whole.

    Args:
        folder: a run's `checkpoints` folder.
        steps: the steps to check, in this order; by default the one that `latest` names, then from the newest.
        checksums: False checks only sizes, which is fast.

    Raises: CheckpointError when the folder cannot be read.
    """
    there = saved_steps(folder)
    named, fault = _step_of_latest(folder)
    passed_over = {LATEST: fault} if fault else {}
    if steps is None:
        if named is not None and named not in there:
            passed_over[LATEST] = f"it names {step_tag(named)}, which does not exist"
        steps = sorted(there, key=lambda step: (step != named, -step))
    num_published = 0
    for step in steps:
        path = there[step]
        try:
            meta = verify_checkpoint(path, checksums=checksums)
        except CheckpointError as error:
            passed_over[path.name] = error.message
            num_published += step == named or os.path.lexists(path / META)
        else:
            return Survey(taken=(path, meta), passed_over=passed_over, num_published=num_published)
    return Survey(taken=None, passed_over=passed_over, num_published=num_published)


def resolve_checkpoint(path: Path) -> tuple[Path, CheckpointMeta]:
    """The verified checkpoint at `path`: a checkpoint itself, or `find_checkpoint` of a run or its checkpoints folder.

    Raises: CheckpointError when there is none, or the named one cannot be used.
    """
    if os.path.lexists(path / META) or step_of(path.name) is not None:
        if not path.is_dir():
            there = [other.name for other in saved_steps(path.parent).values()]
            hint = f"there are {', '.join(there[:5])}" if there else USE_ANOTHER
            raise CheckpointError(f"checkpoint {path} does not exist", hint)
        return path, verify_checkpoint(path)
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist" if not path.exists() else f"{path} is not a folder", WHERE)
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    found = find_checkpoint(folder)
    if found is None:
        raise CheckpointError(f"{path} holds no finished checkpoint", WHERE)
    return found


def verify_checkpoint(path: Path, *, checksums: bool = True) -> CheckpointMeta:
    """Check `meta.json`, and the size and SHA-256 of every file against it.

    Args:
        checksums: False checks only sizes.

    Raises: CheckpointError naming the first file that is missing, truncated, changed or cannot be read.
    """
    meta = read_meta(path)
    for name, facts in meta.files.items():
        file = path / name
        try:
            if not file.is_file():
                raise CheckpointError(f"{file} is missing", USE_ANOTHER)
            if (size := file.stat().st_size) != facts["bytes"]:
                raise CheckpointError(f"{file} has {size} bytes, {facts['bytes']} were saved", USE_ANOTHER)
            if checksums and digest(file) != facts["sha256"]:
                raise CheckpointError(f"{file} has changed since it was saved", USE_ANOTHER)
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error.strerror or error}", USE_ANOTHER) from None
    return meta


def prune_checkpoints(folder: Path, config: CheckpointConfig) -> list[str]:
    """Remove checkpoints that the recipe does not keep, but never the one that `latest` names. Rank 0 only.

    Checkpoints of later steps than that of `latest` were skipped as damaged when the run resumed from an older one.
    They neither count nor are removed: the run replaces each when it reaches its step. The same holds for one that is
    not whole, so that a damaged one never displaces a good one. Remains of a killed save are removed.

    Returns: the removed names.

    Raises: CheckpointError when the folder cannot be read.
    """
    pointed = step_of(latest_name(folder) or "")
    if pointed is None:
        return []
    earlier = {step: path for step, path in saved_steps(folder).items() if step <= pointed}
    whole = [step for step, path in earlier.items() if _is_whole(path)]
    keep = {*whole[: max(1, config.keep_last)], pointed}
    keep |= {step for step in whole if config.keep_every and step % config.keep_every == 0}
    gone = [step for step in whole if step not in keep]
    gone += [step for step, path in earlier.items() if step != pointed and is_leftover(path)]
    return [earlier[step].name for step in sorted(gone) if unpublish(earlier[step])]


def _is_whole(path: Path) -> bool:
    try:
        verify_checkpoint(path, checksums=False)
    except CheckpointError:
        return False
    return True


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
