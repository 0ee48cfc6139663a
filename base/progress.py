"""Progress of long work: a bar that is rewritten on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import TextIO

BAR_EVERY_S = 0.2
LINE_EVERY_S = 10.0
BAR_WIDTH = 24


class Progress:
    """Shows done of total with rate and time left; the rate counts this run only, not what was done before.

    Args:
        done_before: what earlier runs did.
        stream: gets a bar if it is a terminal.
        log: gets the lines where there is no terminal; by default the stream does.
    """

    def __init__(
        self,
        what: str,
        total: int,
        *,
        done_before: int = 0,
        stream: TextIO | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self._what = what
        self._total = total
        self._before = done_before
        self._stream = stream or sys.stderr
        self._log = log or (lambda line: self._write(f"{line}\n"))
        self._bar = self._stream.isatty()
        self._start = self._shown = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        """Set how much is done; prints only when the next line is due."""
        now = time.monotonic()
        if now - self._shown >= (BAR_EVERY_S if self._bar else LINE_EVERY_S):
            self._shown = now
            self._print(self._line(done, note, now - self._start))

    def finish(self, done: int, note: str = "") -> None:
        """Print how much was done, and in which time."""
        self._print(self._line(done, note, time.monotonic() - self._start, at_end=True))
        if self._bar:
            self._write("\n")

    def print_line(self, text: str) -> None:
        """Print a line of its own, above the bar."""
        if self._bar:
            self._write(f"\r\033[K{text}\n")
        else:
            self._log(text)

    def _line(self, done: int, note: str, elapsed_s: float, *, at_end: bool = False) -> str:
        rate = (done - self._before) / max(elapsed_s, 1e-9)
        share = done / self._total if self._total else 1.0
        if at_end:
            time_part = f"in {duration(elapsed_s)}"
        else:
            time_part = f"{duration((self._total - done) / rate) if rate > 0 and done <= self._total else '?'} left"
        parts = [f"{self._what} {done}/{self._total} ({share:.0%})", f"{rate:.1f}/s", time_part]
        if self._bar:
            filled = int(BAR_WIDTH * min(share, 1.0))
            parts.insert(0, "[" + "#" * filled + "-" * (BAR_WIDTH - filled) + "]")
        return "  ".join([*parts, note] if note else parts)

    def _print(self, line: str) -> None:
        if self._bar:
            self._write(f"\r\033[K{line}")
        else:
            self._log(line)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone, or the log is on a full disk: keep working
            self._stream.write(text)
            self._stream.flush()


class ProgressOfParts:
    """Called as `progress(what, done, total)`: a Progress for each `what`, one after another."""

    def __init__(self, *, stream: TextIO | None = None, log: Callable[[str], None] | None = None) -> None:
        self._stream, self._log = stream, log
        self._what = ""
        self._progress = Progress("", 0, stream=stream, log=log)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show progress if a line is due; the end is always shown."""
        if what != self._what:
            self._what, self._progress = what, Progress(what, total, stream=self._stream, log=self._log)
        (self._progress.finish if done >= total else self._progress.update)(done)


def duration(seconds: float) -> str:
    """`45s`, `12m05s`, `3h07m`, `2d04h`."""
    whole = round(seconds)
    days, hours, minutes = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{whole % 60:02d}s" if minutes else f"{whole}s"
