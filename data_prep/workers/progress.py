"""Progress of long work: a bar on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TextIO

BAR_EVERY_S = 0.2
LINE_EVERY_S = 10.0
BAR_WIDTH = 24


class Progress:
    """Shows done of total with rate and time left; the rate counts this run only, not what was done before."""

    def __init__(self, what: str, total: int, *, done_before: int = 0, stream: TextIO | None = None) -> None:
        self._what = what
        self._total = total
        self._before = done_before
        self._stream = stream or sys.stderr
        self._bar = self._stream.isatty()
        self._start = self._shown = time.monotonic()
        self._last_line = ""

    def update(self, done: int, note: str = "") -> None:
        """Set how much is done; prints only when the next line is due."""
        now = time.monotonic()
        if now - self._shown >= (BAR_EVERY_S if self._bar else LINE_EVERY_S):
            self._shown = now
            self._print(self._line(done, note))

    def finish(self, done: int, note: str = "") -> None:
        self._print(self._line(done, note))
        if self._bar:
            self._write("\n")

    def print_line(self, text: str) -> None:
        """Print a separate line, above the bar."""
        self._write(f"\r\033[K{text}\n" if self._bar else f"{text}\n")

    def _line(self, done: int, note: str) -> str:
        elapsed = max(time.monotonic() - self._start, 1e-9)
        rate = (done - self._before) / elapsed
        share = done / self._total if self._total else 1.0
        left = clock((self._total - done) / rate) if rate > 0 and done < self._total else "0:00" if share >= 1 else "?"
        parts = [f"{self._what} {done}/{self._total} ({share:.0%})", f"{rate:.1f}/s", f"{left} left"]
        if self._bar:
            filled = int(BAR_WIDTH * min(share, 1.0))
            parts.insert(0, "[" + "#" * filled + "-" * (BAR_WIDTH - filled) + "]")
        return "  ".join([*parts, note] if note else parts)

    def _print(self, line: str) -> None:
        self._write(f"\r\033[K{line}" if self._bar else f"{line}\n")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone, or the log is on a full disk: keep working
            self._stream.write(text)
            self._stream.flush()


def clock(seconds: float) -> str:
    """1:05 for a minute and five seconds, 2:00:00 for two hours."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
