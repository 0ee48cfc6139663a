"""The learning rate and the distillation weight of each optimizer step: pure functions of the step's number.

A step's number is the count of optimizer steps before it, so the first step is 0.
"""

from __future__ import annotations

import math

from pipeline.config.sections import PAPER_WARMUP_STRIDE, ScheduleConfig


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

    With `ramp_epochs` 1 it is the original's (Pretrain.py: alpha * min(1, i / len(loader)) in epoch 0).
    """
    ramp_steps = ramp_epochs * steps_per_epoch
    return alpha * min(1.0, step / ramp_steps) if ramp_steps > 0 else alpha


def _lr_per_epoch(step: int, config: ScheduleConfig, *, lr: float, steps_per_epoch: int, total_steps: int) -> float:
    """The original's schedule (Pretrain.py and its copy of timm's CosineLRScheduler).

    In epoch 0 the scheduler updates the rate after the steps 0, 100, 200, ... up to warmup_steps, so step 100 still has
    the first rate and 101 the second. A later epoch e has the cosine's value for e of all epochs, even if the warm-up
    had not reached its end.
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
