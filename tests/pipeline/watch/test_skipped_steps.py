"""What is kept of skipped steps, and what happens when it cannot be kept."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from albef.errors import DataError
from pipeline.config.sections import WatchConfig
from pipeline.data.loader import StepBatches
from pipeline.engine.distributed import World
from pipeline.engine.step_check import StepCheck
from pipeline.watch.skipped_step_dump import read_dump
from pipeline.watch.skipped_steps import SkippedSteps, StepFacts
from tests.albef.small import make_batch

FACTS = StepFacts(seed=1, scalars={"alpha": 0.4, "temperature": 0.07}, zero_stage=1, precision="bf16", config_hash="ab")


def skip(skipped: SkippedSteps, step: int, facts: StepFacts = FACTS) -> None:
    """The step with that number from 0, of one lane, whose gradient alone is not finite."""
    batch = make_batch()
    batch.keys, batch.captions = [f"{index:09d}" for index in range(5)], ["a caption"] * 5
    batches = StepBatches(step=step, epoch=0, lanes=[batch], skipped={})
    skipped.record(batches, range(1), StepCheck(losses=torch.ones(1, 5), norm=math.inf, bad_lanes=0), facts)


def watcher(folder: Path, **config: int) -> SkippedSteps:
    world = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
    return SkippedSteps(folder, WatchConfig(**config), world, loss_names=["loss", "loss_itc", "loss_itm", "loss_mlm"])


def test_a_dump_holds_the_batch_to_the_bit(tmp_path: Path) -> None:
    """Tensors, keys and captions come back as they were; numbers JSON does not know come as words."""
    skip(watcher(tmp_path), 6)
    dump, batch = read_dump(tmp_path / "step_00000007"), make_batch()
    for name, value in vars(batch).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(dump.batches[0][name], value), name
    assert (dump.batches[0]["keys"][2], dump.batches[0]["captions"][2]) == ("000000002", "a caption")
    assert (dump.facts["gradient_norm"], dump.facts["index"], dump.facts["alpha"]) == ("inf", 6, 0.4)


def test_a_resumed_run_keeps_counting(tmp_path: Path) -> None:
    """Two in a row, then a stop: the next start counts a third; a step that was taken ends the row."""
    before = watcher(tmp_path, max_skipped_in_a_row=3)
    skip(before, 6)
    skip(before, 7)
    assert not before.too_many
    after = watcher(tmp_path, max_skipped_in_a_row=3)
    after.begin_at(8)
    skip(after, 8)
    assert after.too_many and "3 steps in a row were skipped" in after.error().message
    after.taken()
    assert after.in_a_row == 0
    after.begin_at(9)
    assert after.in_a_row == 3
    after.begin_at(10)
    assert after.in_a_row == 0, "step 10 was not skipped"


def test_a_dump_needs_no_scalar_of_a_task(tmp_path: Path) -> None:
    """A task logs what it likes, or nothing: its skipped steps are read and counted, and replay names what it lacks."""
    from pipeline.tasks.pretraining.replay import replayable

    skip(watcher(tmp_path), 6, replace(FACTS, scalars={"lane": 1.0}))
    dump = read_dump(tmp_path / "step_00000007")
    resumed = watcher(tmp_path)
    resumed.begin_at(7)
    assert (dump.facts["lane"], resumed.in_a_row) == (1.0, 1)
    with pytest.raises(DataError, match=r"rank_0\.json: alpha is None"):
        replayable(tmp_path / "checkpoints", dump, torch.device("cpu"), torch.float32)


def test_a_dump_takes_the_place_of_an_earlier_one_and_of_nothing_else(tmp_path: Path) -> None:
    """Other ranks' parts of a killed start go, notes and links stay, and nothing that a link leads to is touched."""
    dump = tmp_path / "step_00000007"
    skip(watcher(tmp_path), 6)
    (tmp_path / "mine.json").write_text("mine")
    for name in ("rank_1.json", "rank_1.safetensors", ".rank_1.json.tmp"):
        (dump / name).write_text("of a start on two ranks")
    (dump / "notes.md").write_text("mine")
    (dump / "rank_2.json").symlink_to(tmp_path / "mine.json")
    skip(watcher(tmp_path), 6)
    assert {path.name for path in dump.iterdir()} == {"rank_0.json", "rank_0.safetensors", "notes.md", "rank_2.json"}
    assert (tmp_path / "mine.json").read_text() == "mine"


def test_a_dump_that_cannot_be_written_is_logged_and_the_run_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file lies where the folder should be."""
    (tmp_path / "skipped").touch()
    skipped = watcher(tmp_path / "skipped")
    skip(skipped, 6)
    assert skipped.in_a_row == 1
    assert "step 7 skipped, number 1 in a row: gradient norm inf" in caplog.text
    assert "rank 0 could not dump it" in caplog.text


DAMAGED = {
    "nested deep": lambda text: "[" * 100_000,
    "a list": lambda text: "[1]",
    "cut short": lambda text: text[:100],
    "not text": lambda text: "\ud800",
    "a step that is text": lambda text: text.replace('"step": 7', '"step": "7"'),
    "ranks below zero": lambda text: text.replace('"world_size": 1', '"world_size": -1'),
    "no seed": lambda text: text.replace('"seed"', '"sead"'),
    "keys that are none": lambda text: text.replace('"000000002"', "2"),
    "lanes that are none": lambda text: text.replace('"lanes": [', '"lanes": [7, '),
    "losses that are none": lambda text: text.replace('"losses": {', '"losses": 1, "was": {'),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_dump_is_an_error_for_replay_and_none_for_a_run(tmp_path: Path, damage: Callable[[str], str]) -> None:
    skip(watcher(tmp_path), 6)
    file = tmp_path / "step_00000007" / "rank_0.json"
    text = file.read_text()
    assert damage(text) != text
    file.write_text(damage(text), errors="surrogatepass")
    with pytest.raises(DataError, match=r"step_00000007 cannot be read: .{1,200}$"):
        read_dump(file.parent)
    watcher(tmp_path).begin_at(7)  # a run that resumes there


def test_what_a_full_disk_leaves_of_a_dump_is_removed(tmp_path: Path) -> None:
    """It would take the room that is wanted, and count as one of the dumps that keep their batches."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, usual[1]))
    try:
        skip(watcher(tmp_path), 6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert list((tmp_path / "step_00000007").iterdir()) == []
