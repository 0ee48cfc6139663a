"""Every Triton kernel compiled for A100 and H100 without either: no spills, shared memory that fits, few registers.

`python -m tests.albef.kernels.test_resources` writes the table again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TABLE = Path(__file__).with_name("resources.json")
MAX_SHARED = {80: 166_912, 90: 232_448}
"""Bytes that a block may have (CUDA programming guide, compute capabilities, 163 and 227 KB)."""


def measure() -> dict[str, dict[str, int]]:
    """`kernel sm_90` -> registers, spills, shared."""
    from albef.kernels.resources import compiled, configurations

    found = {}
    for one in configurations():
        for capability in MAX_SHARED:
            found[f"{one.name} sm_{capability}"] = vars(compiled(one, capability))
    return found


def test_kernels_compile_without_spills() -> None:
    """Registers and shared memory are at most those of the table, whose Triton is this one or an older one.

    In a process of its own, as another test may have set TRITON_INTERPRET here.
    """
    pytest.importorskip("triton", reason="Triton is missing: on a platform without GPUs it is no part of torch")
    code = f"import json; from {__name__} import measure; print(json.dumps(measure()))"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    found, kept = json.loads(done.stdout), json.loads(TABLE.read_text())
    assert found.keys() == kept.keys(), "a kernel is new or gone: write the table again"
    for name, resources in found.items():
        assert resources["spills"] == 0, name
        assert resources["shared"] <= MAX_SHARED[int(name[-2:])], name
        # another release of the compiler may take a few registers more
        assert resources["registers"] <= kept[name]["registers"] + 16, name
        assert resources["shared"] <= kept[name]["shared"], name


if __name__ == "__main__":
    TABLE.write_text(json.dumps(measure(), indent=2) + "\n")
