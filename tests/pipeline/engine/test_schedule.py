"""The per-step schedule, which is ours; the original's per-epoch one is in tests/parity."""

from __future__ import annotations

import math

import pytest

from albef.errors import ConfigError
from pipeline.config.sections import ScheduleConfig
from pipeline.engine.schedule import alpha_at, lr_at

CONFIG = ScheduleConfig(warmup_steps=10, warmup_lr=1.0, min_lr=2.0)


def rates(config: ScheduleConfig, total: int) -> list[float]:
    return [lr_at(step, config, lr=6.0, steps_per_epoch=7, total_steps=total) for step in range(total + 1)]


def test_warms_up_in_a_straight_line_and_ends_in_a_cosine() -> None:
    """10 steps from 1 to 6 in halves, then half a cosine to 2 over the other 20: by hand at the quarters."""
    course = rates(CONFIG, 30)
    assert course[:11] == pytest.approx([1.0 + 0.5 * step for step in range(11)])
    assert course[15] == pytest.approx(2 + 4 * (1 + math.sqrt(0.5)) / 2)
    assert course[20] == pytest.approx(4.0)
    assert course[25] == pytest.approx(2 + 4 * (1 - math.sqrt(0.5)) / 2)
    assert course[30] == 2.0


def test_moves_every_step_and_never_leaves_its_bounds() -> None:
    """Up in the warm-up, down after it, between the lowest and the peak."""
    course = rates(CONFIG, 200)
    assert all(a < b for a, b in zip(course[:10], course[1:11], strict=True))
    assert all(a > b for a, b in zip(course[10:], course[11:], strict=False))
    assert min(course) == 1.0 and max(course) == 6.0


def test_a_run_shorter_than_its_warm_up_is_cut_off_in_it() -> None:
    """A smoke run of 4 steps takes the first 4 rates of the warm-up."""
    assert rates(CONFIG, 4)[:4] == rates(CONFIG, 30)[:4]


def test_no_warm_up_starts_at_the_peak() -> None:
    """In both modes."""
    for mode in ("per_step", "per_epoch"):
        config = ScheduleConfig(mode=mode, warmup_steps=0)
        assert lr_at(0, config, lr=6.0, steps_per_epoch=7, total_steps=30) == 6.0


def test_after_the_last_step_the_rate_stays_lowest() -> None:
    """A step beyond the end does not start the cosine again."""
    assert lr_at(400, CONFIG, lr=6.0, steps_per_epoch=7, total_steps=30) == 2.0


def test_alpha_rises_over_the_asked_epochs() -> None:
    """Half way through a ramp of two epochs alpha is half."""
    assert alpha_at(10, 0.4, steps_per_epoch=10, ramp_epochs=2.0) == pytest.approx(0.2)
    assert alpha_at(25, 0.4, steps_per_epoch=10, ramp_epochs=2.0) == 0.4
    assert alpha_at(0, 0.4, steps_per_epoch=10, ramp_epochs=0.0) == 0.4


def test_a_warm_up_the_original_cannot_take_is_refused() -> None:
    """It moves once in 100 steps, so 150 has no meaning per_epoch."""
    with pytest.raises(ConfigError, match="150 is not a multiple of 100"):
        ScheduleConfig(mode="per_epoch", warmup_steps=150)
