"""Runs the project's commands as children that do not outlive the demo, however it ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

MARK = "ALBEF_DEMO_RUN"
"""Environment variable that names the run folder in every process started for it."""
PR_SET_PDEATHSIG = 1


def run_child(command: Sequence[str], *, run_dir: Path, environment: Mapping[str, str] | None = None) -> int:
    """Run a command on our terminal; returns its exit code.

    If the demo dies, by kill -9 too, the kernel sends the child SIGTERM: a trainer saves and ends. On Ctrl-C, which
    the terminal sends to both, the child is waited for.
    """
    started = [sys.executable, "-m", "demo.processes", *command]
    child = subprocess.Popen(started, env={**os.environ, **(environment or {}), MARK: str(run_dir.resolve())})
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            print("\nwaiting for the command to stop ...", file=sys.stderr, flush=True)


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


def _become(command: Sequence[str]) -> None:
    """In the child: ask the kernel for SIGTERM when the parent dies, then turn into the command."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        sys.exit(1)
    os.execvp(command[0], list(command))


if __name__ == "__main__":
    _become(sys.argv[1:])
