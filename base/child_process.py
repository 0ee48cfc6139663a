"""Runs a command as a child that does not outlive this process, however it ends. Linux."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

PR_SET_PDEATHSIG = 1
PASSED_ON = (signal.SIGTERM, signal.SIGUSR1)
"""Requests to stop, as a trainer understands them."""


def run_child(command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> int:
    """Run a command on our terminal and wait for it; returns its exit code, negative for the signal that killed it.

    If this process dies, by kill -9 too, the kernel sends the child SIGTERM: a trainer saves and ends. SIGTERM and
    SIGUSR1 are passed on, and on Ctrl-C, which the terminal sends to both, the child is waited for. To be called from
    the main thread.

    Args:
        environment: variables to set beside those of this process.
    """
    started = [sys.executable, "-m", "base.child_process", *command]
    child = subprocess.Popen(started, env={**os.environ, **(environment or {})})
    before = {number: signal.signal(number, lambda sent, _: child.send_signal(sent)) for number in PASSED_ON}
    try:
        return _wait(child)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(child: subprocess.Popen[bytes]) -> int:
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            print("\nwaiting for the command to stop ...", file=sys.stderr, flush=True)


def _become(command: Sequence[str]) -> None:
    """In the child: ask the kernel for SIGTERM when the parent dies, then turn into the command."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        sys.exit(1)
    os.execvp(command[0], list(command))


if __name__ == "__main__":
    _become(sys.argv[1:])
