"""A trace of a few training steps, for TensorBoard and https://ui.perfetto.dev: `logging.profile`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

log = logging.getLogger(__name__)

Phase = Callable[[str], None]
"""Called with the name of each part of a step as it begins."""


class StepTrace:
    """Records `steps` of a run with torch's profiler; each step and each of its parts is a span.

    Args:
        steps: counted from 0; empty records nothing, and costs nothing.
        folder: where the trace is written, one file.
    """

    def __init__(self, steps: range, folder: Path) -> None:
        self._steps, self._folder = steps, folder
        self._profiler: profile | None = None
        self._first = 0
        self._spans: list[record_function] = []

    def begin(self, step: int, phase: Phase) -> Phase:
        """Call before a step; returns the `phase` for it to call: the one given, unless the step is recorded."""
        if step not in self._steps:
            return phase
        if self._profiler is None:
            cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self._profiler, self._first = profile(activities=[ProfilerActivity.CPU, *cuda]), step
            self._profiler.start()
        self._open(f"ProfilerStep#{step}")  # a name that TensorBoard's plugin looks for

        def recorded(part: str) -> None:
            self._close(keep=1)
            self._open(part)
            phase(part)

        return recorded

    def end(self, step: int) -> None:
        """Call after every step; writes the trace after the last of them."""
        self._close(keep=0)
        if step + 1 == self._steps.stop:
            self.close(step)

    def close(self, last: int | None = None) -> None:
        """Write what was recorded, if it is not written yet: also of a run that ends in between."""
        self._close(keep=0)
        if self._profiler is None:
            return
        self._profiler.stop()
        file = self._folder / f"steps_{self._first}_{self._steps.stop if last is None else last + 1}.pt.trace.json.gz"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._profiler.export_chrome_trace(str(file))
            log.info("trace of steps from %d written to %s", self._first, file)
        except OSError as error:  # a full disk must not end the run for it
            log.warning("the trace of logging.profile cannot be written: %s", error)
        self._profiler = None

    def _open(self, name: str) -> None:
        span = record_function(name)
        span.__enter__()
        self._spans.append(span)

    def _close(self, *, keep: int) -> None:
        while len(self._spans) > keep:
            self._spans.pop().__exit__(None, None, None)
