"""Shared memory (/dev/shm), through which data workers pass images to their trainer: how much is needed, and is free.

A container has 64 MiB of it unless it is started with more. A worker that finds no room there ends the run.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from albef.errors import DataError

FOLDER = Path("/dev/shm")
HINT = (
    "give it more room (docker run --shm-size=8g; mount -o remount,size=8g /dev/shm), or use fewer data.num_workers or "
    "a smaller data.prefetch; 0 workers need none of it"
)
MIB = 2**20
TORCH_ERROR = re.compile(r"unable to [^<]*</torch_\w+>[^:]*: (.*)")
"""The message of aten/src/ATen/MapAllocator.cpp, which ends with the system's reason."""


def needed_bytes(
    *, num_workers: int, prefetch: int, lanes: int, micro_batch_size: int, image_size: int, images_per_sample: int = 1
) -> int:
    """The most that one rank's loader holds.

    Args:
        lanes: micro-batches in one step of the rank. Those of the current and of the next step may exist at once,
            beside all that workers have prepared.
    """
    image_bytes = micro_batch_size * images_per_sample * 3 * image_size**2  # uint8
    return (num_workers * prefetch + 2 * lanes) * image_bytes if num_workers else 0


def free_bytes() -> int | None:
    """Bytes that are free on this machine; None where there is no /dev/shm."""
    try:
        room = os.statvfs(FOLDER)
    except OSError:
        return None
    return room.f_bavail * room.f_frsize


def shortage(needed: int) -> str | None:
    """A line that compares `needed` bytes with the free ones; None if there are enough."""
    free = free_bytes()
    if free is None or needed <= free:
        return None
    return f"data workers need up to {needed / MIB:,.1f} MiB of {FOLDER}, but {free / MIB:,.1f} MiB are free here"


def error_of(text: str) -> DataError | None:
    """The error behind a worker's RuntimeError, when it is about shared memory."""
    if "items of ancdata" in text:  # multiprocessing.reduction: no further descriptor could be opened
        return too_many_files()
    found = TORCH_ERROR.search(text)
    if found is None:
        return None
    reason = found[1].strip()
    if reason.startswith("Success"):  # torch 2.11 reports errno, which posix_fallocate leaves as it is
        reason = "not enough room"
    return too_many_files() if "Too many open files" in reason else no_room(reason)


def no_room(reason: str) -> DataError:
    """The error when there is no memory for another batch, semaphore or file."""
    free = free_bytes()
    left = f"there is no {FOLDER}" if free is None else f"{free / MIB:,.1f} MiB are free now"
    return DataError(f"a data worker found no shared memory in {FOLDER}: {reason} ({left})", HINT)


def too_many_files() -> DataError:
    """The error when there are too many batches in shared memory: each takes a file descriptor."""
    return DataError(
        "data workers have too many files open", "raise the limit (ulimit -n 65536), or use fewer data.num_workers"
    )
