"""One run per run folder at a time: a command submitted twice must not write the same checkpoints twice."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from albef.errors import ConfigError
from pipeline.engine.distributed import World
from pipeline.run.retrying_file import unwritable
from samples.quote import LIMIT, quote

log = logging.getLogger(__name__)

PATIENCE_S = 15.0
"""How long a start waits for the one before it, which may be about to end."""


@contextlib.contextmanager
def exclusive_run(run_dir: Path, world: World) -> Iterator[None]:
    """Lock `run_dir`/lock, by rank 0, while the block runs; a collective at its start.

    A POSIX lock is released when the process ends in any way, is not inherited by children, and holds between machines
    if the file system supports it (NFS, GPFS, Lustre mounted with `flock`). If it does not, a warning is logged and
    nothing is locked.

    Raises: ConfigError, on every rank, when another process holds the lock or the folder cannot be written.
    """
    file, problem = None, None
    if world.is_main:
        try:
            file = _hold(run_dir)
        except ConfigError as error:
            problem = error
    problem = world.broadcast_object(problem)
    if problem is not None:
        raise problem
    try:
        yield
    finally:
        if file is not None:
            file.close()


def _hold(run_dir: Path) -> BinaryIO:
    """The locked file, with a line about this process in it."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = open(run_dir / "lock", "ab+", buffering=0)  # noqa: SIM115  # stays open while the run lasts
    except OSError as error:
        raise unwritable(run_dir, error) from error
    deadline = time.monotonic() + PATIENCE_S
    while not _lock(file, run_dir):
        if time.monotonic() > deadline:
            file.seek(0)
            holder = file.read(4 * LIMIT).decode("utf-8", "replace").strip()
            file.close()
            raise ConfigError(
                f"another run is training in {run_dir}: {quote(holder)}",
                "wait for its end or stop it (scancel, Ctrl-C), then the same command resumes; or another --run-dir",
            )
        time.sleep(0.2)
    try:
        file.truncate(0)
        file.write(_this_process().encode())
    except OSError as error:
        file.close()
        raise unwritable(run_dir, error) from error
    return file


def _lock(file: BinaryIO, run_dir: Path) -> bool:
    """Whether no other process holds the lock; True, with a warning, on a file system without locks."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        log.warning("%s: this file system has no locks (%s); never start a run twice here", run_dir, error)
    return True


def _this_process() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    return f"process {os.getpid()} on {platform.node()}{f', Slurm job {job}' if job else ''}\n"
