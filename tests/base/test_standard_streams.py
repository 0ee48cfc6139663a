"""A program whose output cannot be written ends with its own exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from base.standard_streams import print_to_stderr, release_unwritable
sys.stdout.write("an answer that stays in the buffer")
print_to_stderr("error: no room")
if sys.argv[1] == "release":
    release_unwritable()
sys.exit(3)
"""


def run(end: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    """The program with buffered streams, also where the environment asks for unbuffered ones."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    words = [sys.executable, "-c", PROGRAM, end]
    return subprocess.run(words, cwd=ROOT, env=environment, text=True, timeout=60, **streams)


@pytest.mark.parametrize(("end", "code"), [("release", 3), ("leave", 120)])
def test_a_full_disk_behind_stdout_does_not_change_the_exit_code(end: str, code: int) -> None:
    """Both streams are full. Without the release, Python tries to write again at exit, and ends with 120."""
    with open("/dev/full", "w") as full:
        assert run(end, stdout=full, stderr=full).returncode == code


def test_a_message_reaches_stderr_at_once() -> None:
    done = run("release", capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "an answer that stays in the buffer", "error: no room\n")
