"""The Triton kernels of every `check_*.py` of this folder, interpreted on the CPU; tests/gpu runs them on a GPU.

Each file runs in a process of its own, because Triton decides when it is imported whether it interprets.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
CHECKS = sorted(path.name for path in FOLDER.glob("check_*.py"))


def run_checks(name: str, **variables: str) -> None:
    """Fail with the output of the file's tests if one of them fails or none runs."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / name)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", CHECKS)
def test_interpreted(name: str) -> None:
    """Triton's interpreter runs the kernels in numpy, programs one after the other."""
    run_checks(name, TRITON_INTERPRET="1", KERNEL_DEVICE="cpu")
