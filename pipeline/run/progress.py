"""Progress of long work: one line that is rewritten on a terminal, a line every few seconds in a log file."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from datetime import timedelta
from typing import TextIO

log = logging.getLogger(__name__)


class Progress:
    """Called as `progress(what, done, total)`; a new `what` restarts the clock.

    Args:
        stream: rewritten if it is a terminal; otherwise progress is logged.
        every_s: seconds between two log lines; a terminal is refreshed five times a second.
    """

    def __init__(self, stream: TextIO | None = None, *, every_s: float = 10.0) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._every_s = 0.2 if self._terminal else every_s
        self._what = ""
        self._began = self._reported = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Report progress if the interval has passed; the end is always reported."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._reported = what, now, now
        if done < total and now - self._reported < self._every_s:
            return
        self._reported = now
        line = self._line(done, total, now - self._began)
        if not self._terminal:
            log.info("%s", line)
            return
        with contextlib.suppress(OSError):  # the terminal was closed, the work continues
            self._stream.write(f"\r{line}\x1b[K" + ("\n" if done >= total else ""))
            self._stream.flush()

    def _line(self, done: int, total: int, elapsed_s: float) -> str:
        line = f"{self._what}: {done} of {total}"
        if done >= total or not done or not elapsed_s:
            return f"{line}, {elapsed_s:.1f} s"
        rate = done / elapsed_s
        return f"{line}, {rate:.1f}/s, {timedelta(seconds=round((total - done) / rate))} left"


def duration(seconds: float) -> str:
    """`45s`, `12m05s`, `3h07m`, `2d04h`."""
    whole = round(seconds)
    days, hours, minutes = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{whole % 60:02d}s" if minutes else f"{whole}s"
