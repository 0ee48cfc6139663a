"""Politeness to hosts: so many requests at a time to one, and none while it has asked to be left alone."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence


def spread_hosts(hosts: Sequence[str]) -> list[int]:
    """An order of asking in which the rows of a host are as far apart as can be: all first rows, all second ones, ...

    Lists are often sorted by host; in their own order every thread would wait for the same host's turn.
    """
    seen: Counter[str] = Counter()
    rounds = []
    for host in hosts:
        rounds.append(seen[host])
        seen[host] += 1
    return sorted(range(len(hosts)), key=rounds.__getitem__)


class HostTurns:
    """Shared by the threads of a worker. A turn is one listed image with all its attempts, redirects included.

    Args:
        per_host: turns at a time for one host; other threads wait.
    """

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._busy: Counter[str] = Counter()
        self._left_alone_until: dict[str, float] = {}
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def turn(self, host: str) -> Iterator[None]:
        """Wait until the host may be asked, then hold a turn."""
        with self._changed:
            while (wait_s := self._wait_s(host)) is None or wait_s > 0:
                self._changed.wait(wait_s)
            self._busy[host] += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy[host] -= 1
                if not self._busy[host]:
                    del self._busy[host]
                self._changed.notify_all()

    def leave_alone(self, host: str, seconds: float) -> None:
        """Begin no turn with the host for so long. Turns that were begun go on: they do their own waiting."""
        with self._changed:
            until = time.monotonic() + seconds
            self._left_alone_until[host] = max(until, self._left_alone_until.get(host, 0.0))

    def _wait_s(self, host: str) -> float | None:
        """0 when the host may be asked now, None when only another turn's end can change that."""
        left = self._left_alone_until.get(host, 0.0) - time.monotonic()
        if left > 0:
            return left
        self._left_alone_until.pop(host, None)
        return 0.0 if self._busy[host] < self._per_host else None
