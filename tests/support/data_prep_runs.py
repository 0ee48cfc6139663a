"""Starts `python -m data_prep` as a user would, and finds and ends what it started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data_prep.shards.manifest import read_manifest
from data_prep.shards.reader import read_samples
from samples.shard import StoredSample
from tests.support.job_processes import family

ROOT = Path(__file__).parents[2]


def start(*arguments: object, environment: Mapping[str, str] = MappingProxyType({})) -> subprocess.Popen[str]:
    """`python -m data_prep ARGUMENTS`, in its own process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "data_prep", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(
    *arguments: object, environment: Mapping[str, str] = MappingProxyType({}), timeout_s: float = 240
) -> subprocess.CompletedProcess[str]:
    """Start it and wait for its end."""
    process = start(*arguments, environment=environment)
    try:
        out, err = process.communicate(timeout=timeout_s)
    finally:
        kill_all(family(process.pid))
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_all(pids: list[int]) -> None:
    for pid in pids:
        if alive(pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 120) -> Any:
    """The condition's first true value."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {timeout_s:g} s")


def samples(folder: Path) -> dict[int, tuple[StoredSample, dict[str, Any]]]:
    """Every sample the manifest names, read by its offset, by row number of the list."""
    found = {}
    for row in read_manifest(folder / "manifest.parquet"):
        stored = {sample.key: sample for sample in read_samples(folder / row["path"])}
        assert list(stored) == row["keys"]
        assert [(sample.offset, sample.length) for sample in stored.values()] == list(
            zip(row["offsets"], row["lengths"], strict=True)
        )
        for key, sample in stored.items():
            found[int(key.rpartition("-")[2])] = (sample, json.loads(sample.meta))
    return found


def failures(folder: Path) -> dict[int, str]:
    """Reason by row number."""
    lines = [line for path in sorted((folder / "failures").iterdir()) for line in path.read_text().splitlines()]
    return {failure["row"]: failure["reason"] for failure in map(json.loads, lines)}
