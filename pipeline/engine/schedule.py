"""The learning rate and the distillation weight of each optimizer step: pure functions of the step's number.

A step's number is the count of optimizer steps taken before it, so the first step is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from albef.errors import ConfigError

PAPER_WARMUP_STRIDE = 100
"""The original's warm-up moves once in so many steps (Pretrain.py, step_size)."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate runs from `warmup_lr` to `optim.lr` to `min_lr`, and how alpha rises."""

    mode: Literal["per_step", "per_epoch"] = "per_step"
    """per_step: linear warm-up, then a cosine that moves every step. per_epoch: the original's, which holds the rate
    for 100 steps in the warm-up and for an epoch after it, and cuts the warm-up off at the end of the first epoch."""
    warmup_steps: NonNegativeInt = 2_000
    """Steps until the rate reaches optim.lr. In per_epoch mode a multiple of 100."""
    warmup_lr: NonNegativeFloat = 1e-5
    """Rate of the first step."""
    min_lr: NonNegativeFloat = 1e-5
    """Where the cosine ends."""
    alpha_ramp_epochs: NonNegativeFloat = 1.0
    """Epochs over which the distillation weight rises from 0 to objective.alpha; 0 starts at objective.alpha."""

    def __post_init__(self) -> None:
        if self.mode == "per_epoch" and self.warmup_steps % PAPER_WARMUP_STRIDE:
            raise ConfigError(
                f"schedule.warmup_steps {self.warmup_steps} is not a multiple of {PAPER_WARMUP_STRIDE}, "
                "as schedule.mode per_epoch needs",
                f"round it to {round(self.warmup_steps / PAPER_WARMUP_STRIDE) * PAPER_WARMUP_STRIDE}, "
                "or use schedule.mode per_step",
            )


def lr_at(step: int, config: ScheduleConfig, *, lr: float, steps_per_epoch: int, total_steps: int) -> float:
    """The learning rate of one optimizer step.

    Args:
        step: optimizer steps taken before this one.
        lr: the peak, `optim.lr`.
        steps_per_epoch: at least 1.
        total_steps: length of the run; the cosine ends there. In per_epoch mode it is rounded up to whole epochs.
    """
    if config.mode == "per_epoch":
        return _lr_per_epoch(step, config, lr=lr, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
    if step < config.warmup_steps:
        return config.warmup_lr + (lr - config.warmup_lr) * step / config.warmup_steps
    return _cosine(lr, config.min_lr, step - config.warmup_steps, total_steps - config.warmup_steps)


def alpha_at(step: int, alpha: float, *, steps_per_epoch: int, ramp_epochs: float = 1.0) -> float:
    """The distillation weight of one optimizer step: from 0, linear over the first epochs, then `alpha`.

    With `ramp_epochs` 1 the original's (Pretrain.py: alpha * min(1, i / len(loader)) in epoch 0).
    """
    ramp_steps = ramp_epochs * steps_per_epoch
    return alpha * min(1.0, step / ramp_steps) if ramp_steps > 0 else alpha


def _lr_per_epoch(step: int, config: ScheduleConfig, *, lr: float, steps_per_epoch: int, total_steps: int) -> float:
    """The original's schedule (Pretrain.py and its copy of timm's CosineLRScheduler).

    In epoch 0 the scheduler moves after the steps 0, 100, 200, ... up to warmup_steps, so step 100 still runs at the
    first rate and 101 at the second. Later epochs e run at the cosine's value for e of all epochs; what the warm-up
    had not reached is jumped over.
    """
    epoch, i = divmod(step, steps_per_epoch)
    if epoch > 0:
        return _cosine(lr, config.min_lr, epoch, math.ceil(total_steps / steps_per_epoch))
    moves = max(0, i - 1) // PAPER_WARMUP_STRIDE
    all_moves = config.warmup_steps // PAPER_WARMUP_STRIDE
    if moves >= all_moves:
        return lr
    return config.warmup_lr + moves * (lr - config.warmup_lr) / all_moves


def _cosine(top: float, bottom: float, done: int, length: int) -> float:
    if done >= length:
        return bottom
    return bottom + 0.5 * (top - bottom) * (1.0 + math.cos(math.pi * done / length))
