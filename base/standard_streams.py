"""Stdout and stderr that may be on a full disk, or closed by their reader."""

from __future__ import annotations

import contextlib
import os
import sys


def print_to_stderr(text: str) -> None:
    """Print to stderr. If that fails (a full disk, a closed pipe), there is nowhere to report it."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def release_unwritable() -> None:
    """Drop buffered output of stdout and stderr that cannot be written. Call at the end of the process.

    Python would try again at exit, and end with exit code 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
