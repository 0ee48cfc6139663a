"""Stopping a run from outside: signals and the stop file set a flag, the ranks agree on it at the end of a step."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from types import FrameType

from pipeline.distributed import World

log = logging.getLogger(__name__)

STOPPED_AND_SAVED = 75
"""Exit code of a run that was told to stop and saved (EX_TEMPFAIL: call again and it goes on)."""


class StopWatch:
    """Hears SIGTERM, SIGUSR1, SIGINT and the stop file; a second SIGINT leaves at once.

    A signal only sets a flag: the step is finished, the ranks agree (one rank's flag stops all, so that none waits in
    a collective for a rank that left), and the caller saves. Use as a context manager; the handlers are restored.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self, world: World, stop_file: Path) -> None:
        self.world = world
        self.stop_file = stop_file
        self.reason: str | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopWatch:
        for number in self.SIGNALS:
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def agreed(self) -> bool:
        """True on every rank as soon as one rank was told to stop. Collective: call on all ranks, once a step."""
        if self.reason is None and self.world.is_main and self.stop_file.exists():
            self.reason = f"the stop file {self.stop_file}"
        stop = self.world.agree(self.reason is not None)
        if stop and self.reason is None:
            self.reason = "another rank"
        return stop

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGINT and self.reason == name:
            os._exit(128 + number)
        self.reason = name
