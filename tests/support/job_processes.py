"""Finds every process of a job: by descent, or by a variable of the environment it was started in."""

from __future__ import annotations

from pathlib import Path


def family(pid: int) -> list[int]:
    """A process and all that descend from it, by /proc: also those in other process groups."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


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
