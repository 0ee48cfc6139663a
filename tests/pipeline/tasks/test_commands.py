"""`pipeline pretrain` from the command line, in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.tiny_run import tiny_recipe
from tests.support.training_runs import digest, newest


def test_deterministic_changes_no_bit_on_a_cpu(tmp_path: Path) -> None:
    """Two steps with the flag, whose operations all have a deterministic form, and two without it."""
    recipe, checkpoints = tiny_recipe(tmp_path), []
    for name, flags in (("plain", []), ("same", ["--deterministic"])):
        command = [sys.executable, "-m", "pipeline", "pretrain", str(recipe), "--run-dir", str(tmp_path / name), *flags]
        environment = os.environ | {"DS_ACCELERATOR": "cpu"}
        done = subprocess.run(
            [*command, "--max_steps=2"], env=environment, capture_output=True, text=True, timeout=250, check=False
        )
        assert done.returncode == 0, done.stderr
        checkpoints.append(digest(newest(tmp_path / name)))
    assert checkpoints[0] == checkpoints[1]


def test_the_flag_sets_torch_and_cublas() -> None:
    """In a process of its own: the switch is one of the whole process."""
    code = (
        "import os; from pipeline.engine.deterministic import use_deterministic; use_deterministic(); import torch;"
        "print(torch.are_deterministic_algorithms_enabled(), os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    )
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":0:0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", ":4096:8"]
