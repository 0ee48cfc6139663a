"""Resuming on another number of ranks or at another ZeRO stage: real runs, compared with one that was left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.training_runs import begin_at, digest, losses, newest, relative_differences, run

HALF = 5
"""The checkpoint that is resumed; an epoch has six steps, so it lies inside one."""
FOUR_LANES = ["--batch.micro_batch_size=2"]
TOLERANCE = 1e-6

Straight = Callable[..., Path]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """Ten steps without interruption, saved after five as well; each layout is run once."""
    folder = tmp_path_factory.mktemp("straight")
    done: dict[str, Path] = {}

    def of(ranks: int, ds_config: str, *choice: str) -> Path:
        name = "_".join([str(ranks), ds_config, *choice])
        if name not in done:
            overrides = [f"--deepspeed.config={ds_config}", "--checkpoint.save_every=5", *choice]
            done[name] = run(folder, name, ranks=ranks, overrides=overrides).parents[1]
        return done[name]

    return of


def resume_as(tmp_path: Path, source: Path, ranks: int, ds_config: str, *choice: str) -> Path:
    """The second half of `source`, taken by other ranks or at another stage."""
    begin_at(source, HALF, tmp_path / "changed")
    return run(tmp_path, "changed", ranks=ranks, overrides=[f"--deepspeed.config={ds_config}", *choice]).parents[1]


@pytest.mark.parametrize(
    ("before", "after", "ds_config"),
    [
        (2, 1, "zero0_fp32"),
        (2, 1, "zero1_fp32"),
        (2, 1, "zero2_fp32"),
        (1, 2, "zero1_fp32"),
        (2, 1, "zero1_bf16"),
    ],
)
def test_with_two_lanes_another_world_size_changes_no_bit(tmp_path, straight, ds_config, before, after):
    """Dropout and augmentation on, inside an epoch: every byte of weights, teacher and queue is that of the run on the
    ranks it began with, since a sum of two does not depend on who adds."""
    whole = straight(before, ds_config)
    changed = resume_as(tmp_path, whole, after, ds_config)
    assert digest(newest(changed)) == digest(newest(whole))
    assert losses(changed) == {step: line for step, line in losses(whole).items() if step > HALF}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, "zero1_fp32"), (4, "zero1_fp32")),
        ((2, "zero2_fp32"), (1, "zero0_fp32")),
        ((1, "zero0_fp32"), (4, "zero2_fp32")),
        ((2, "zero2_bf16"), (1, "zero2_bf16")),
    ],
)
def test_four_lanes_on_other_ranks_and_stages_take_the_same_steps(tmp_path, straight, before, after):
    """World size and stage change together; what differs is the order in which four gradients are added.

    In bf16 the optimizer's fp32 weights are compared, not their roundings.
    """
    whole = straight(*before, *FOUR_LANES)
    changed = resume_as(tmp_path, whole, *after, *FOUR_LANES)
    differences = relative_differences(newest(changed), newest(whole))
    assert max(differences.values()) < TOLERANCE, differences


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 2), (2, 0)])
def test_another_stage_takes_the_same_steps(tmp_path, straight, before, after):
    """Two ranks throughout; only where the optimizer keeps its state changes."""
    whole = straight(2, f"zero{before}_fp32")
    changed = resume_as(tmp_path, whole, 2, f"zero{after}_fp32")
    differences = relative_differences(newest(changed), newest(whole))
    assert max(differences.values()) < TOLERANCE, differences
