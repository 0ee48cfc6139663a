"""Log steps that take many times as long as the recent median."""

from __future__ import annotations

import logging
import statistics
import time
from collections import deque

from pipeline.engine.distributed import World

log = logging.getLogger(__name__)

WINDOW = 101
"""Number of recent steps whose median counts as usual."""
WARM_UP = 3
"""Steps after a start that are ignored, because allocation, caches and the filling loader slow them down."""
ENOUGH = 10
"""Number of steps needed before any is called slow."""
INTERVAL_S = 60.0
"""Shortest time between two lines."""


class SlowSteps:
    """Counts and logs the steps that take `factor` times the median of the recent ones.

    Every rank has one. A step is slow on all ranks at once, because they wait for each other: rank 0 logs it, and any
    other rank only if it waited for data most of the time, because that is then the reason.

    Args:
        factor: 0 disables it.
    """

    def __init__(self, factor: float, world: World) -> None:
        self.factor, self.world = factor, world
        self.total = 0
        """Slow steps since this start."""
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._seen = 0
        self._unreported = 0
        self._last_line_s = -INTERVAL_S

    def note(self, step: int, seconds: float, wait_s: float, keys: list[str]) -> None:
        """Record a step.

        Args:
            step: number of steps taken, including this one.
            seconds: duration of the step, without validation and saving.
            wait_s: seconds of it that this rank waited for its batches.
            keys: keys of its samples on this rank.
        """
        self._seen += 1
        if not self.factor or self._seen <= WARM_UP:
            return
        usual = statistics.median(self._recent) if len(self._recent) >= ENOUGH else seconds
        self._recent.append(seconds)
        if seconds <= self.factor * usual:
            return
        self.total += 1
        self._unreported += 1
        now = time.monotonic()
        if now - self._last_line_s < INTERVAL_S or not (self.world.is_main or wait_s > seconds / 2):
            return
        others = f" ({self._unreported - 1} others were slow since the last such line)" if self._unreported > 1 else ""
        self._last_line_s, self._unreported = now, 0
        log.warning(
            "step %d took %.2f s, %.0f times the usual %.2f s; %.0f%% of it waiting for data, from sample %s on%s",
            *(step, seconds, seconds / usual, usual, 100 * wait_s / seconds, keys[0], others),
        )
