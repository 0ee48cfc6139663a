"""Finds every process of a job, whoever started it: by a variable of the environment it was started in."""

from __future__ import annotations

from pathlib import Path


def processes_with(mark: str) -> list[tuple[int, dict[str, str]]]:
    """Number and environment of every process that was started with that variable."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            entries = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # ended, or another user's
            continue
        if mark in entries:
            found.append((int(folder.name), dict(entry.split("=", 1) for entry in entries if "=" in entry)))
    return found


def is_trainer(pid: int) -> bool:
    """Whether a process is `python -P -m pipeline pretrain ...` itself."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return words[1:5] == [b"-P", b"-m", b"pipeline", b"pretrain"]
