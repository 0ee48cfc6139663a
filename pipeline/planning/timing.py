"""Measures a step: its time, its processor time, its parts, and the process's memory. Imports only torch."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """What one step took."""

    seconds: float
    """On a GPU between two events of its stream, otherwise on the clock."""
    cpu_s: float
    """Of this process's processors."""


class StepTimer:
    """Times steps one after another; on a GPU by events, so that the host does not wait between steps.

    Args:
        device: where the steps run.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[float, float, torch.cuda.Event | None]] = []

    def __call__(self, step: Callable[[], object]) -> None:
        """Take a step."""
        self._mark()
        step()
        self._mark()

    def times(self) -> list[StepTime]:
        """Of all steps so far; waits for the device."""
        if self._on_gpu:
            torch.cuda.synchronize()
        pairs = zip(self._marks[::2], self._marks[1::2], strict=True)
        return [StepTime(seconds=_seconds(start, end), cpu_s=end[1] - start[1]) for start, end in pairs]

    def _mark(self) -> None:
        event = None
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
        self._marks.append((time.perf_counter(), time.process_time(), event))


def _seconds(
    start: tuple[float, float, torch.cuda.Event | None], end: tuple[float, float, torch.cuda.Event | None]
) -> float:
    if start[2] is not None and end[2] is not None:
        return start[2].elapsed_time(end[2]) / 1e3
    return end[0] - start[0]


class Stopwatch:
    """Seconds, and seconds of this process's processors, by part; call it with the part that begins."""

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self._synchronize = synchronize
        self._spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._part: str | None = None
        self._began = (0.0, 0.0)

    def __call__(self, part: str) -> None:
        self.stop()
        self._part, self._began = part, (time.perf_counter(), time.process_time())

    def stop(self) -> dict[str, list[float]]:
        """End the part that runs; returns all so far."""
        self._synchronize()
        if self._part is not None:
            spent = self._spent[self._part]
            spent[0] += time.perf_counter() - self._began[0]
            spent[1] += time.process_time() - self._began[1]
            self._part = None
        return self._spent


def summary(values: Sequence[float], digits: int) -> tuple[float, list[float]]:
    """Median, and [least, most], rounded."""
    return round(statistics.median(values), digits), [round(min(values), digits), round(max(values), digits)]


def reset_peak(device: torch.device) -> None:
    """Forget the device memory that was allocated so far; on a CPU the peak stays that of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Bytes: most device memory allocated since its counter was reset; on a CPU the process's largest resident size.

    Not getrusage's, which in a child process begins with the size of its parent.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident("VmHWM")


def resident(field: str) -> int:
    """Bytes of this process in memory: "VmRSS" now, "VmHWM" at most (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1_024 * int(line.split()[1])
    raise AssertionError(f"no {field} in /proc/self/status")
