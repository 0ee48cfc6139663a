"""Learning rate and alpha of the original's nine recipes, as recorded from its training loops."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pipeline.config.sections import PAPER_WARMUP_STRIDE, ScheduleConfig
from pipeline.engine.schedule import alpha_at, lr_at
from tests.parity import goldens

RECORDED: dict[str, Any] = {
    name: recipe for name, recipe in goldens.load("lr_alpha_schedules").info.items() if not name.startswith("_")
}
ROUNDING = 1e-12
"""Relative. Both sides are a handful of float64 operations, in another order."""


def rate(recipe: dict[str, Any], step: int) -> float:
    """Ours, in per_epoch mode, from the numbers of the recorded configuration."""
    recorded, steps = recipe["schedular"], recipe["iters_in_epoch0"]
    config = ScheduleConfig(
        mode="per_epoch",
        warmup_steps=recorded["warmup_epochs"] * PAPER_WARMUP_STRIDE,
        warmup_lr=recorded["warmup_lr"],
        min_lr=recorded["min_lr"],
    )
    total = recorded["epochs"] * steps
    return lr_at(step, config, lr=recipe["optimizer"]["lr"], steps_per_epoch=steps, total_steps=total)


@pytest.mark.parametrize("name", RECORDED)
def test_every_rate_of_the_first_epoch_is_the_recorded_one(name: str) -> None:
    """The warm-up's stairs: each step from one recorded change to the next runs at the recorded rate."""
    recipe = RECORDED[name]
    changes = [*recipe["lr_epoch0_breakpoints"], [recipe["iters_in_epoch0"], None]]
    for (first, recorded), (following, _) in zip(changes, changes[1:], strict=False):
        for step in range(first, following):
            assert math.isclose(rate(recipe, step), recorded, rel_tol=ROUNDING), f"{name}, step {step}"


@pytest.mark.parametrize("name", RECORDED)
def test_the_rate_of_every_epoch_is_the_recorded_one(name: str) -> None:
    """Last step of each epoch as recorded; the first one of later epochs too, since the rate holds for an epoch."""
    recipe = RECORDED[name]
    steps = recipe["iters_in_epoch0"]
    for epoch, recorded in enumerate(recipe["lr_last_iter_of_epoch"]):
        for step in [(epoch + 1) * steps - 1] + ([epoch * steps] if epoch else []):
            assert math.isclose(rate(recipe, step), recorded, rel_tol=ROUNDING), f"{name}, epoch {epoch}, step {step}"


@pytest.mark.parametrize("name", [name for name, recipe in RECORDED.items() if recipe["alpha"] is not None])
def test_alpha_is_the_recorded_one(name: str) -> None:
    """Rising over the first epoch, or whole from the start where the recipe says `warm_up: False`."""
    recipe = RECORDED[name]
    steps = recipe["iters_in_epoch0"]
    ramp_epochs = 0.0 if recipe["warm_up"] is False else 1.0
    later = [[steps, value] for value in recipe["alpha_later"]] + [[7 * steps + 3, v] for v in recipe["alpha_later"]]
    for step, recorded in [*recipe["alpha_epoch0"], *later]:
        ours = alpha_at(step, recipe["alpha"], steps_per_epoch=steps, ramp_epochs=ramp_epochs)
        assert math.isclose(ours, recorded, rel_tol=ROUNDING, abs_tol=0.0), f"{name}, step {step}"
