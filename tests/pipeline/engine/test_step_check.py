"""Steps that are not finite, at every ZeRO stage and precision, in real runs with real NaNs and infinities."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.engine.step_check import sum_of_squares
from pipeline.task import LaneLosses, LaneStep
from tests.support.poison import (
    all_finite,
    inf_gradient,
    keep_process_group,
    nan_loss,
    nan_pixels,
    whole_state,
    without_steps,
)
from tests.support.ranks import run_ranks
from tests.support.tiny_run import tiny_recipe
from tests.support.wrapped_task import WrappedTask, pretrain_with, real_losses, stop_after

POISONS = {0: (3, inf_gradient), 2: (0, real_losses), 3: (2, nan_loss)}
"""step, counted from 0 -> lane and what happens in it: before the optimizer has any state, later, and directly after
another one. That of step 2 is in its batch (`nan_pixels`). Of two ranks, the second one has lanes 2 and 3."""
NUM_STEPS = 6
FOUR_LANES = {"global_batch_size": 16, "micro_batch_size": 4}


def poisoned_run(
    recipe: str, run_dir: Path, overrides: list[str], *, stop: int = -1, last_rank: bool = False
) -> dict[str, Any]:
    """Train with the poisons; the last rank is asked to stop in step `stop`. Returns what moved in which step."""
    seen: dict[str, Any] = {"moved": {}, "finite": True}
    ask = stop_after(stop + 1, on_this_rank=last_rank)

    def before(task: Any, engine: Any, _step: int) -> None:
        seen["before"] = whole_state(task, engine)

    def lane(task: Any, engine: Any, batch: Any, at: LaneStep) -> LaneLosses:
        bad_lane, poison = POISONS.get(at.step, (None, real_losses))
        return (poison if at.lane == bad_lane else real_losses)(task, engine, batch, at)

    def after(task: Any, engine: Any, step: int) -> None:
        state, now = seen["before"], whole_state(task, engine)
        seen["moved"][step] = sorted(name for name in state if state[name] != now[name])
        seen["finite"] &= all_finite(task, engine)
        seen.update(state=now, skipped=engine.skipped_steps, steps=engine.global_steps)
        ask(task, engine, step)

    wrap = partial(WrappedTask, before=before, lane=lane, after=after)
    with nan_pixels({2: 0}):
        seen["code"] = pretrain_with(wrap, recipe, run_dir, overrides)
    return seen


def spared_run(recipe: str, run_dir: Path, overrides: list[str]) -> dict[str, str]:
    """Train as if the poisoned batches were not in the data; returns the last state of this rank."""
    state: dict[str, str] = {}

    def after(task: Any, engine: Any, _step: int) -> None:
        state.update(whole_state(task, engine))

    with without_steps(POISONS):
        pretrain_with(partial(WrappedTask, after=after), recipe, run_dir, overrides)
    return state


def all_runs(rank: int, world: int, recipe: str, folder: str, overrides: list[str], stops: list[int]) -> Any:
    """The poisoned run, the one that never saw those batches, and poisoned ones stopped and resumed."""
    keep_process_group()
    whole = poisoned_run(recipe, Path(folder) / "whole", overrides)
    spared = spared_run(recipe, Path(folder) / "spared", overrides)
    stopped = {}
    for stop in stops:
        run_dir = Path(folder) / f"stopped_{stop}"
        first = poisoned_run(recipe, run_dir, overrides, stop=stop, last_rank=rank == world - 1)
        stopped[stop] = first, poisoned_run(recipe, run_dir, overrides)
    return whole, spared, stopped


@pytest.mark.parametrize(
    ("ds_config", "ranks", "stops"),
    [
        ("zero0_fp32", 2, []),
        ("zero0_fp32", 1, []),
        ("zero0_bf16", 2, []),
        ("zero1_fp32", 2, []),
        ("zero1_bf16", 2, [0]),
        ("zero2_fp32", 2, [3]),
        ("zero2_bf16", 2, []),
    ],
)
def test_a_skipped_step_moves_nothing_and_leaves_nothing_behind(
    tmp_path: Path, ds_config: str, ranks: int, stops: list[int]
) -> None:
    """Four lanes: an infinite gradient on one rank, a NaN pixel on another, a NaN loss alone: to the bit."""
    recipe = tiny_recipe(tmp_path, batch=FOUR_LANES, max_steps=NUM_STEPS)
    overrides = [f"--deepspeed.config={ds_config}"]
    results = run_ranks(
        all_runs, ranks, str(recipe), str(tmp_path), overrides, stops, process_group=False, timeout_s=300
    )
    for rank, (whole, spared, stopped) in enumerate(results):
        where = f"{ds_config}, rank {rank} of {ranks}"
        for step, moved in whole["moved"].items():
            assert (moved == []) == (step in POISONS), f"{where}: step {step} moved {moved[:5]}"
        assert whole["finite"], where
        assert (whole["skipped"], whole["steps"], whole["code"]) == (len(POISONS), NUM_STEPS, 0), where
        different = [name for name in spared if spared[name] != whole["state"][name]]
        assert not different, f"{where}: a skipped step left a trace in {different[:5]}"
        for stop, (first, second) in stopped.items():
            assert (first["code"], second["code"]) == (75, 0), f"{where}, stopped after {stop}"
            assert second["state"] == whole["state"], f"{where}, stopped after {stop} and resumed"
            assert second["skipped"] == len(POISONS), f"{where}, stopped after {stop}"
    lines = {line["step"]: line for line in map(json.loads, (tmp_path / "whole" / "metrics.jsonl").open())}
    assert [lines[step]["train/loss"] is None for step in range(1, NUM_STEPS + 1)] == [
        step - 1 in POISONS for step in range(1, NUM_STEPS + 1)
    ]
    assert [lines[step]["optim/skipped_steps"] for step in range(1, NUM_STEPS + 1)] == [1, 1, 2, 3, 3, 3]
    check_dumps(tmp_path / "whole" / "skipped", ranks)


def check_dumps(skipped: Path, ranks: int) -> None:
    """Each skipped step has its dump, with every lane and the batch as it was."""
    from pipeline.watch.skipped_step_dump import read_dump

    assert sorted(path.name for path in skipped.iterdir()) == [f"step_{step + 1:08d}" for step in POISONS]
    dumps = {step: read_dump(skipped / f"step_{step + 1:08d}") for step in POISONS}
    for step, dump in dumps.items():
        assert (dump.step, dump.facts["index"], dump.facts["world_size"]) == (step + 1, step, ranks)
        assert sorted(dump.batches) == [0, 1, 2, 3]
        assert all(len(lane["keys"]) == len(lane["captions"]) == 4 for lane in dump.facts["lanes"])
    assert torch.isnan(dumps[2].batches[0]["image"]).nonzero().tolist() == [[1, 0, 3, 3]]
    assert all(bool(batch["image"].isfinite().all()) for batch in dumps[0].batches.values())
    bad = {
        step: [lane["lane"] for lane in dump.facts["lanes"] if "nan" in lane["losses"].values()]
        for step, dump in dumps.items()
    }
    assert bad == {0: [], 2: [0], 3: [2]}


@pytest.mark.parametrize("sizes", [[7], [3, 5_000_000, 2, 1], [1 << 21, 1 << 21], [(1 << 22) + 1, 9]])
def test_the_sum_of_squares_is_float64s_however_the_gradient_is_cut(sizes: list[int]) -> None:
    """Pieces smaller and larger than what is summed at a time, with squares that fp32 could not hold."""
    generator = torch.Generator().manual_seed(3)
    whole = torch.randn(sum(sizes), generator=generator) * 1e20
    found = sum_of_squares(list(whole.split(sizes))).item()
    assert found == pytest.approx(whole.double().square().sum().item(), rel=1e-12)  # millions of roundings
