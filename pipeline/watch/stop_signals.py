"""Stopping a run from outside: signals and the stop file set a flag, and the ranks agree on it after each step."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from pathlib import Path
from types import FrameType

from pipeline.engine.distributed import World

log = logging.getLogger(__name__)


class StopSignals:
    """Handles SIGTERM, SIGUSR1, SIGINT and the stop file; a second SIGINT ends the process at once.

    A signal only sets a flag: the step is finished, the ranks agree (one rank's flag stops all, so that none waits in
    a collective for a rank that has left), and the caller saves. Use as a context manager, which restores the handlers.

    Python runs a handler between two bytecode instructions, so not while the main thread waits in a collective or
    writes a large file. The second SIGINT must not wait for that, so a thread counts them: it reads the pipe into which
    Python's C-level signal handler writes the number of every signal.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self, world: World, stop_file: Path) -> None:
        self.world = world
        self.stop_file = stop_file
        self.reason: str | None = None
        self._previous: dict[int, object] = {}
        self._previous_fd = -1
        self._pipe = (-1, -1)

    def __enter__(self) -> StopSignals:
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)  # set_wakeup_fd requires it
        self._previous_fd = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        threading.Thread(target=_leave_on_second_sigint, args=(self._pipe[0],), name="sigint", daemon=True).start()
        for number in self.SIGNALS:
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._pipe[1])  # which ends the thread

    def agreed(self) -> bool:
        """True on every rank once a stop was requested on any. A collective: call it on all ranks, once per step."""
        if self.reason is None and self.world.is_main and os.path.exists(self.stop_file):
            self.reason = f"the stop file {self.stop_file}"
        stop = self.world.agree(self.reason is not None)
        if stop and self.reason is None:
            self.reason = "another rank"
        return stop

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.reason = signal.Signals(number).name


def _leave_on_second_sigint(pipe: int) -> None:
    interrupts = 0
    while numbers := os.read(pipe, 64):
        interrupts += numbers.count(signal.SIGINT)
        if interrupts > 1:
            with contextlib.suppress(OSError):  # stderr may be a file on a full disk
                os.write(2, b"interrupted twice: left at once, without saving\n")
            os._exit(128 + signal.SIGINT)
    os.close(pipe)
