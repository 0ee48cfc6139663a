"""`run_child`: a command's exit code, its signals, and its end with the parent. In real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from base.child_process import run_child

PARENT = "import sys; from base.child_process import run_child; sys.exit(run_child(sys.argv[1:]))"
CHILD = """
import os, signal, sys, time
def leave(number, _):
    open(sys.argv[1] + ".signal", "w").write(signal.Signals(number).name)
    sys.exit(75)
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, leave)
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(60)
"""


def wait_for(there: Callable[[], bool], what: str) -> None:
    """Poll for up to half a minute."""
    deadline = time.monotonic() + 30
    while not there():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_the_exit_code_and_the_environment_are_the_childs() -> None:
    """A code, the number of a signal, and a variable beside those of this process."""
    assert run_child(["sh", "-c", "exit 7"]) == 7
    assert run_child(["sh", "-c", "kill -9 $$"]) == -9
    assert run_child(["sh", "-c", 'test "$ONE" = two && test -n "$PATH"'], environment={"ONE": "two"}) == 0


@pytest.mark.parametrize(
    ("sent", "received", "code"),
    [(signal.SIGKILL, "SIGTERM", -9), (signal.SIGTERM, "SIGTERM", 75), (signal.SIGUSR1, "SIGUSR1", 75)],
)
def test_a_child_ends_with_its_parent_or_by_its_signals(
    tmp_path: Path, sent: signal.Signals, received: str, code: int
) -> None:
    """After kill -9 of the parent the kernel sends SIGTERM; a request to stop is passed on, and its code returned."""
    file = tmp_path / "child"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, sys.executable, "-c", CHILD, str(file)])
    try:
        wait_for(lambda: file.exists() and file.read_text() != "", "the child runs")
        parent.send_signal(sent)
        assert parent.wait(30) == code
        noted = Path(f"{file}.signal")
        wait_for(lambda: noted.exists() and noted.read_text() == received, f"the child got {received}")
    finally:
        parent.kill()
        if not Path(f"{file}.signal").exists() and file.exists():
            os.kill(int(file.read_text()), signal.SIGKILL)
