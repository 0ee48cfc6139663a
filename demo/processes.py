"""The project's commands as children of the demo, and what a killed start left running of them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from base import child_process

MARK = "ALBEF_DEMO_RUN"
"""Environment variable that names the run folder in every process started for it."""


def run_child(command: Sequence[str], *, run_dir: Path, environment: Mapping[str, str] | None = None) -> int:
    """`base.child_process.run_child`, with the run folder's mark on the command and all that it starts."""
    marked = {**(environment or {}), MARK: str(run_dir.resolve())}
    return child_process.run_child(command, environment=marked)


def end_leftovers(run_dir: Path, *, patience_s: float = 20.0) -> int:
    """End what an earlier, killed start left running for this run folder; returns how many processes there were.

    They got SIGTERM when their parent died and most have ended; one that still runs would write to the same folder.
    """
    found = leftovers(run_dir)
    if not found:
        return 0
    for pid in found:
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and leftovers(run_dir):
        time.sleep(0.2)
    for pid in leftovers(run_dir):
        _signal(pid, signal.SIGKILL)
    return len(found)


def leftovers(run_dir: Path) -> list[int]:
    """Processes that carry this run folder's mark, other than this one and its children."""
    mark = f"{MARK}={run_dir.resolve()}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:  # it has ended, or is another user's
            continue
        if mark in environment.split(b"\0") and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself in between
        os.kill(pid, number)
