"""Write a folder whole or not at all, and never replace anything by accident."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from albef.errors import CheckpointError
from albef.weights.model_folder import MODEL_FILES, is_model_folder
from samples.quote import quote

OFFICIAL_NAME = "albef.pth"
MADE_BY = "made_by_pipeline"
"""The record beside an exported albef.pth; a file without it may be a download."""


@contextmanager
def atomic_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `out`: renamed to `out` when the block ends, or removed if it raises.

    Raises: CheckpointError when `out` is a file, holds something that must not be overwritten, or cannot be written.
    """
    check_free(out, overwrite=overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise CheckpointError(f"{out} cannot be written: {error.strerror}", "choose another folder (--out)") from error
    try:
        temporary.chmod(0o755 & ~_umask())  # mkdtemp creates it private
        yield temporary
        check_free(out, overwrite=overwrite)  # again: something may have been put there since
        if out.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
            os.replace(out, old)  # onto an empty folder: allowed, and atomic
            try:
                os.replace(temporary, out)
            except OSError:
                os.replace(old, out)
                raise
            shutil.rmtree(old)  # checked: it held files of ours only
        else:
            os.replace(temporary, out)
    except OSError as error:
        raise CheckpointError(
            f"{out} cannot be written: {error.strerror or error}", "is the disk full? nothing was left behind"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_free(out: Path, *, overwrite: bool) -> None:
    """Raise a CheckpointError unless `out` may be written. Call it before long work, too."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise CheckpointError(f"{out} is not a folder", "choose another folder (--out)")
    names = set(os.listdir(out)) if out.is_dir() else set()
    if not names:
        return
    if not overwrite:
        raise CheckpointError(f"{out} is not empty", "choose another folder (--out), or give --overwrite")
    if foreign := _foreign(out, names):
        raise CheckpointError(
            f"{out} holds something other than an exported model, such as {quote(foreign)}",
            "--overwrite replaces exported models only; choose another folder (--out), or move that elsewhere",
        )


def _foreign(out: Path, names: set[str]) -> str:
    """The first entry of a folder that export and import did not write; empty if they wrote all of it."""
    ours = {OFFICIAL_NAME, MADE_BY} if MADE_BY in names else set(MODEL_FILES) if is_model_folder(out) else set()
    files = {entry.name for entry in os.scandir(out) if entry.is_file(follow_symlinks=False)}
    return min(names - (ours & files), default="")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
