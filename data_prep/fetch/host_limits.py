"""Limits for each host: at most `per_host` requests at a time, and none while a host's back-off lasts."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence


def spread_hosts(hosts: Sequence[str]) -> list[int]:
    """An order of asking in which the rows of a host are as far apart as can be: all first rows, all second ones, ...

    Lists are often sorted by host; in their own order every thread would wait for a slot of the same host.
    """
    seen: Counter[str] = Counter()
    rounds = []
    for host in hosts:
        rounds.append(seen[host])
        seen[host] += 1
    return sorted(range(len(hosts)), key=rounds.__getitem__)


class HostLimiter:
    """Shared by the threads of a worker. A slot is held for one listed image: all its attempts, redirects included.

    Args:
        per_host: slots of one host; a thread that finds none free waits.
    """

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._busy: Counter[str] = Counter()
        self._backing_off_until: dict[str, float] = {}
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def slot(self, host: str) -> Iterator[None]:
        """Wait until the host may be asked, then hold one of its slots."""
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

    def back_off(self, host: str, seconds: float) -> None:
        """Give out no slot of the host for `seconds`. Slots that are held stay held: their threads do the waiting."""
        with self._changed:
            until = time.monotonic() + seconds
            self._backing_off_until[host] = max(until, self._backing_off_until.get(host, 0.0))

    def _wait_s(self, host: str) -> float | None:
        """0 when the host may be asked now, None when a slot has to be given back first."""
        left = self._backing_off_until.get(host, 0.0) - time.monotonic()
        if left > 0:
            return left
        self._backing_off_until.pop(host, None)
        return 0.0 if self._busy[host] < self._per_host else None
