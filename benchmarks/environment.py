"""What this machine is, for a table of figures: `python -m benchmarks.environment` prints one JSON line.

Device, driver, versions and commit. What is not there is null, and is no error: figures want a date and a machine, and
a checkout that was copied has no commit.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "triton", "deepspeed", "transformers", "timm", "numpy")
ROOT = Path(__file__).resolve().parent.parent


def environment() -> dict[str, Any]:
    """Facts by name; imports torch, which is asked for the device."""
    import torch

    cuda = torch.cuda.is_available()
    properties = torch.cuda.get_device_properties(0) if cuda else None
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": properties.name if properties else f"{platform.machine()} CPU",
        "cuda": torch.version.cuda if cuda else None,
        "compute_capability": f"{properties.major}.{properties.minor}" if properties else None,
        "device_memory_gib": round(properties.total_memory / 2**30, 1) if properties else None,
        "num_devices": torch.cuda.device_count() if cuda else 0,
        "driver": first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "power_limit": first_line("nvidia-smi", "--query-gpu=power.limit", "--format=csv,noheader"),
        "num_cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "commit": first_line("git", "-C", str(ROOT), "rev-parse", "HEAD"),
    }


def first_line(*words: str) -> str | None:
    """The first line that a command prints; None where it is not installed or fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else None


def version(package: str) -> str | None:
    """The installed version of a package, without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    print(json.dumps(environment()))
