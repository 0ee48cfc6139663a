"""Every Triton kernel compiled for A100 and H100 without either: shared memory that fits, registers, spills.

`python -m tests.albef.kernels.test_resources` writes the table of the installed Triton again.
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


def test_kernels_take_no_more_than_the_table_has() -> None:
    """Nothing takes more than in the table of this Triton; another release's registers are no measure of it.

    In a process of its own, as another test may have set TRITON_INTERPRET here.
    """
    pytest.importorskip("triton", reason="Triton is missing: on a platform without GPUs it is no part of torch")
    code = f"import json, triton; from {__name__} import measure; print(json.dumps([triton.__version__, measure()]))"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    version, found = json.loads(done.stdout)
    tables = json.loads(TABLE.read_text())
    assert all(found.keys() == table.keys() for table in tables.values()), "a kernel is new or gone: write them again"
    for name, resources in found.items():
        assert resources["shared"] <= MAX_SHARED[int(name[-2:])], name
        for what, limit in tables.get(version, {}).get(name, {}).items():
            assert resources[what] <= limit, f"{name}: {what}"


def test_the_tested_triton_spills_nothing() -> None:
    """The newest table's, whose Triton requirements.lock has; the older release spills 120 bytes at most."""
    tables = json.loads(TABLE.read_text())
    spills = {version: max(one["spills"] for one in table.values()) for version, table in tables.items()}
    assert spills == {"3.6.0": 120, "3.9.0": 0}


if __name__ == "__main__":
    import triton

    tables = json.loads(TABLE.read_text()) | {triton.__version__: measure()}
    TABLE.write_text(json.dumps(tables, indent=2, sort_keys=True) + "\n")
