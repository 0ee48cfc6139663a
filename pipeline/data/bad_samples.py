"""Keeps count of samples that were replaced: for the metrics, for the log, and to stop when nothing can be read."""

from __future__ import annotations

import logging
import time
from collections import Counter

from albef.errors import DataError
from pipeline.data.lane_task import LaneResult

log = logging.getLogger(__name__)

FIRST_LINES = 10
"""The first replaced samples get a line each ..."""
INTERVAL_S = 60.0
"""... and later ones share a line in this time, with totals."""

HINT = (
    "is the disk or mount with the shards still there? `python -m data_prep verify DIR` checks every shard; "
    "data.max_failures_in_a_row sets the limit"
)


class BadSamples:
    """Watches the results of this rank's lanes in their order, so that what it logs does not depend on workers.

    Args:
        max_in_a_row: the run ends when this number of samples in a row are replaced.
    """

    def __init__(self, max_in_a_row: int) -> None:
        self._max_in_a_row = max_in_a_row
        self._in_a_row = 0
        self._totals: Counter[str] = Counter()
        self._num_logged = 0
        self._last_line_s = 0.0

    def watch(self, result: LaneResult) -> dict[str, int]:
        """Note one lane's result.

        Returns: samples replaced in it, by reason.
        Raises: DataError after too many in a row, or when a sample and all of its replacements failed.
        """
        replaced = Counter(reason for reason in result.reasons if reason)
        self._totals += replaced
        for detail in result.details:
            self._log(detail)
        if result.error:
            raise DataError(result.error, HINT)
        for reason in result.reasons:
            self._in_a_row = self._in_a_row + 1 if reason else 0
            if self._in_a_row >= self._max_in_a_row:
                raise DataError(
                    f"{self._in_a_row} samples in a row could not be used, {reason} last ({result.details[-1]})", HINT
                )
        return dict(replaced)

    def _log(self, detail: str) -> None:
        now = time.monotonic()
        if self._num_logged < FIRST_LINES:
            self._num_logged += 1
        elif now - self._last_line_s < INTERVAL_S:
            return
        self._last_line_s = now
        totals = ", ".join(f"{reason} {count}" for reason, count in sorted(self._totals.items()))
        log.warning("%s (replaced so far: %s)", detail, totals)
