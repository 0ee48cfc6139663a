"""Tells of steps that take many times as long as usual."""

from __future__ import annotations

import logging
import statistics
import time
from collections import deque

from pipeline.engine.distributed import World

log = logging.getLogger(__name__)

WINDOW = 101
"""Recent steps whose median is `usual`."""
WARM_UP = 3
"""Steps after a start that are not looked at: allocation, caches, the loader filling up."""
ENOUGH = 10
"""Steps that must have been seen before any is called slow."""
INTERVAL_S = 60.0
"""At most one line in this time."""


class SlowSteps:
    """Counts and tells of the steps that take `factor` times the median of the recent ones.

    Every rank has one. A step is slow on all ranks at once, because they wait for each other: rank 0 tells it, and any
    other rank only if it has waited for data most of the time, which then is the reason.

    Args:
        factor: 0 turns it off.
    """

    def __init__(self, factor: float, world: World) -> None:
        self.factor, self.world = factor, world
        self.total = 0
        """Slow steps since this start."""
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._seen = 0
        self._untold = 0
        self._last_line_s = -INTERVAL_S

    def note(self, step: int, seconds: float, wait_s: float, keys: list[str]) -> None:
        """Take in a step.

        Args:
            step: steps taken, this one included.
            seconds: of the step, `wait_s` of them waiting for its batches on this rank; validation and saving not
                counted.
            keys: its samples on this rank.
        """
        self._seen += 1
        if not self.factor or self._seen <= WARM_UP:
            return
        usual = statistics.median(self._recent) if len(self._recent) >= ENOUGH else seconds
        self._recent.append(seconds)
        if seconds <= self.factor * usual:
            return
        self.total += 1
        self._untold += 1
        now = time.monotonic()
        if now - self._last_line_s < INTERVAL_S or not (self.world.is_main or wait_s > seconds / 2):
            return
        others = f" ({self._untold - 1} others were slow since the last such line)" if self._untold > 1 else ""
        self._last_line_s, self._untold = now, 0
        log.warning(
            "step %d took %.2f s, %.0f times the usual %.2f s; %.0f%% of it waiting for data, from sample %s on%s",
            *(step, seconds, seconds / usual, usual, 100 * wait_s / seconds, keys[0], others),
        )
