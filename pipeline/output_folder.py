"""Writing a folder that appears whole or not at all, and never by accident in the place of something else."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from albef.errors import CheckpointError

OURS = (("config.json", "model.safetensors"), ("albef.pth",))
"""A folder that holds all of one of these was written by export or import, and `--overwrite` may replace it."""


@contextmanager
def fresh_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `out`, which takes its place when the block ends well and is removed when it does not.

    Raises: CheckpointError when `out` is a file, or holds something that may not be overwritten, or cannot be written.
    """
    check_free(out, overwrite=overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise CheckpointError(f"{out} cannot be written: {error.strerror}", "choose another folder (--out)") from error
    try:
        temporary.chmod(0o755 & ~_umask())  # mkdtemp makes it private
        yield temporary
        if out.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
            os.replace(out, old)  # onto an empty folder: allowed, and atomic
            os.replace(temporary, out)
            shutil.rmtree(old)
        else:
            os.replace(temporary, out)
    except OSError as error:
        raise CheckpointError(
            f"{out} cannot be written: {error.strerror or error}", "is the disk full? nothing was left behind"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_free(out: Path, *, overwrite: bool) -> None:
    """Raise a CheckpointError unless `out` may be written; worth calling before long work."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise CheckpointError(f"{out} is not a folder", "choose another place (--out)")
    names = set(os.listdir(out)) if out.is_dir() else set()
    if not names:
        return
    if not overwrite:
        raise CheckpointError(f"{out} is not empty", "choose another folder (--out), or say --overwrite")
    if not any(names.issuperset(files) for files in OURS):
        raise CheckpointError(
            f"{out} holds something else than an exported model, {sorted(names)[0]} for one",
            "--overwrite replaces exported models only; choose another folder (--out)",
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
