"""What counts as trouble while a run trains."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """What counts as trouble while a run trains, and how long it is borne (docs/stopping.md)."""

    max_refused_in_a_row: PositiveInt = 5
    """Steps refused one after another, because a loss or the gradient was not finite, that end the run."""
    max_dumps: NonNegativeInt = 20
    """Refused steps of a run folder whose batches are kept for `replay`; of further ones the sample keys only."""
    hang_s: NonNegativeFloat = 1_200.0
    """A rank that stands still, or is not heard of, for so long ends the job. Longer than the longest honest pause: one
    save, one batch of validation, data.timeout_s. 0 watches for ranks that died only."""
    slow_step_factor: NonNegativeFloat = 5.0
    """A step that takes so many times the median of the recent ones is told in the log; 0 tells none."""
