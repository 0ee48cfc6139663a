"""Scalars: means over steps and ranks, curves that never fork, the console line."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.sections import LogConfig
from pipeline.engine.distributed import World
from pipeline.run.folder import RunFolder
from pipeline.run.metrics import Metrics, console_line, truncate_jsonl
from pipeline.tasks.pretraining.task import LOSS_NAMES
from tests.support.ranks import run_ranks

ALONE = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))


def open_metrics(folder: Path, step: int, world: World = ALONE, **config: Any) -> Metrics:
    settings = LogConfig(**({"log_every": 2, "images_every": 4} | config))
    metrics = Metrics(settings, RunFolder(path=folder), world, loss_names=LOSS_NAMES, total_steps=7, batch=8)
    metrics.open_at_step(step)
    metrics.start(step)
    return metrics


def take(metrics: Metrics, step: int, *, rank: int = 0, skipped: dict[str, int] | None = None) -> None:
    """A step whose losses are step, step + 0.1, ... and ten more on each further rank."""
    metrics.data_wait(0.0)
    losses = torch.arange(5) * 0.1 + step + 10 * rank
    temperature = torch.tensor([0.07])
    scalars: dict[str, Any] = {"optim/lr": 1e-4 * step, "train/temperature": temperature, "optim/grad_norm": None}
    metrics.record(step, losses, epoch=0, skipped=skipped, scalars=scalars)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_line_is_the_mean_since_the_line_before(tmp_path: Path) -> None:
    """Logged every 2 steps, and the first and the last: steps 1, 2, 4, 6, 7."""
    metrics = open_metrics(tmp_path, 0, tensorboard=False)
    for step in range(1, 8):
        take(metrics, step)
    metrics.close()
    written = lines(tmp_path)
    assert [line["step"] for line in written] == [1, 2, 4, 6, 7]
    assert [line["train/loss"] for line in written] == pytest.approx([1, 2, 3.5, 5.5, 7])
    assert [line["train/loss_mlm"] for line in written] == pytest.approx([1.3, 2.3, 3.8, 5.8, 7.3])
    assert written[2]["optim/lr"] == pytest.approx(4e-4)
    assert written[2]["train/temperature"] == pytest.approx(0.07)
    assert "optim/grad_norm" not in written[2] and "speed/mfu_pct" not in written[2]
    assert [line["data/samples_seen"] for line in written] == [8, 16, 32, 48, 56]
    assert all(line["memory/peak_gib"] > 0 and line["speed/samples_per_s"] > 0 for line in written)


def talk(rank: int, world_size: int, folder: str) -> None:
    world = World(rank=rank, local_rank=rank, size=world_size, device=torch.device("cpu"))
    metrics = open_metrics(Path(folder), 0, world, tensorboard=False)
    for step in range(1, 8):
        take(metrics, step, rank=rank, skipped={"unreadable": rank + 1} if step == 4 else None)
    metrics.write(7, {"val/i2t_recall_at_1": 50.0})
    metrics.close()


def test_ranks_are_averaged_and_what_they_skipped_is_summed(tmp_path: Path) -> None:
    """Two ranks ten apart: five more than rank 0 alone; rank 0 alone writes."""
    run_ranks(talk, 2, str(tmp_path))
    *written, validation = lines(tmp_path)
    assert [line["train/loss"] for line in written] == pytest.approx([6, 7, 8.5, 10.5, 12])
    assert [line["data/skipped_samples"] for line in written] == [0, 0, 3, 3, 3]
    assert validation["val/i2t_recall_at_1"] == 50.0


def test_curves_do_not_fork_when_a_run_resumes(tmp_path: Path) -> None:
    """Killed at step 6, resumed from step 3: one value a step in both files, those of the second start after 3."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = open_metrics(tmp_path, 0, log_every=1)
    for step in range(1, 7):
        take(first, step, skipped={"unreadable": 1})
    first.image("samples", np.zeros((4, 4, 3), dtype=np.uint8), 6)
    first.text("captions", "a cat", 6)
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "train/lo')  # cut short by the kill
    second = open_metrics(tmp_path, 3, log_every=1)
    for step in range(4, 8):
        take(second, step, rank=1)
    second.close()
    expected = [1, 2, 3, 14, 15, 16, 17]
    written = lines(tmp_path)
    assert [line["step"] for line in written] == list(range(1, 8))
    assert [line["train/loss"] for line in written] == pytest.approx(expected)
    assert [line["data/skipped_samples"] for line in written] == [1, 2, 3, 3, 3, 3, 3]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    curve = board.Scalars("train/loss")
    assert [event.step for event in curve] == list(range(1, 8))
    assert [event.value for event in curve] == pytest.approx(expected)


def test_a_run_that_starts_again_leaves_nothing_of_the_one_before(tmp_path: Path) -> None:
    """Killed before its first checkpoint: step 0's validation is taken again too, so its old line goes."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "val/x": 1}\n{"step": 1, "train/loss": 1}\n')
    open_metrics(tmp_path, 0, tensorboard=False).close()
    assert path.read_text() == ""
    assert truncate_jsonl(tmp_path / "none.jsonl", 3) == {}


def test_infinities_are_null_in_json(tmp_path: Path) -> None:
    """A gradient norm of a skipped step is infinite, which JSON cannot hold."""
    metrics = open_metrics(tmp_path, 0, tensorboard=False)
    metrics.write(1, {"optim/grad_norm": float("inf"), "train/loss": float("nan")})
    metrics.close()
    line = lines(tmp_path)[0]
    assert line["optim/grad_norm"] is None and line["train/loss"] is None


def test_pictures_are_due_at_the_first_step_and_then_every_n(tmp_path: Path) -> None:
    """None when switched off, or when there is no TensorBoard to show them in."""
    due = [step for step in range(1, 10) if open_metrics(tmp_path, 0).images_due(step)]
    assert due == [1, 4, 8]
    assert not any(open_metrics(tmp_path, 0, images_every=0).images_due(step) for step in range(10))
    assert not any(open_metrics(tmp_path, 0, tensorboard=False).images_due(step) for step in range(10))


def test_the_console_line_shows_progress(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Step, percent, losses, rate, time left: computed by hand."""
    names = [f"train/{name}" for name in LOSS_NAMES]
    scalars = dict(zip(names, (9.0, 5.0, 0.5, 3.5, 0.6), strict=True))
    scalars |= {"optim/lr": 1e-4, "speed/samples_per_s": 1234.5, "speed/step_s": 0.5, "speed/data_wait_pct": 1.4}
    assert console_line(1000, 8200, scalars, LOSS_NAMES) == (
        "step 1,000/8,200 (12.2%) | loss 9.0000 (itc 5.0000 itm 0.5000 mlm 3.5000) | lr 1.00e-04 | 1,234 samples/s"
        " | data wait 1% | 1h00m left"
    )
    with caplog.at_level(logging.INFO, logger="pipeline"):
        metrics = open_metrics(tmp_path, 0, tensorboard=False)
        take(metrics, 1)
        metrics.close()
    assert "step 1/7 (14.3%) | loss 1.0000" in caplog.text


def test_mfu_is_counted_over_all_ranks(tmp_path: Path) -> None:
    """100 samples/s of 3 FLOP on two ranks of 1000 FLOP/s is 15%."""
    world = World(rank=1, local_rank=1, size=2, device=torch.device("cpu"))
    metrics = Metrics(
        LogConfig(),
        RunFolder(path=tmp_path),
        world,
        loss_names=LOSS_NAMES,
        total_steps=1,
        batch=1,
        flops_per_sample=3.0,
        peak_flops=1000.0,
    )
    assert metrics._mfu_pct(100.0) == pytest.approx(15.0)
