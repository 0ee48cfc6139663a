"""A run that is skipped step after step ends with an error, and `pipeline replay` shows why, from what it left."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.cli import main
from tests.support.checkpoints import published
from tests.support.poison import keep_process_group, nan_pixels
from tests.support.ranks import run_ranks
from tests.support.tiny_run import tiny_recipe

BAD = (3, 4, 5)
"""Skipped steps, counted from 0."""
OPTIONS = ["--watch.max_skipped_in_a_row=3", "--watch.max_dumps=2", "--checkpoint.save_every=2", "--max_steps=8"]


class Run(NamedTuple):
    folder: Path
    codes: list[list[int]]
    said: str
    """By rank 0 in the start that failed."""


def poisoned_then_sound(rank: int, _world: int, recipe: str, run_dir: str) -> list[int]:
    """The command with three poisoned steps, then, again as the error asks; the exit codes."""
    keep_process_group()
    words = ["pretrain", recipe, "--run-dir", run_dir, *OPTIONS]

    sys.stderr = open(f"{run_dir}.{rank}.txt", "w")  # noqa: SIM115, closed by the end of the process
    with nan_pixels(dict.fromkeys(BAD, 1)):
        first = main(words)
    sys.stderr.flush()
    return [first, main(words)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("skipped")
    run_dir = folder / "run"
    recipe = tiny_recipe(folder)
    codes = run_ranks(poisoned_then_sound, 2, str(recipe), str(run_dir), process_group=False, timeout_s=300)
    return Run(run_dir, codes, Path(f"{run_dir}.0.txt").read_text())


def test_too_many_in_a_row_end_the_run_with_an_error(run: Run) -> None:
    """Exit code 2 on both ranks, one error that names the dump and the command; what there was is saved, and the same
    command resumes with the batch after them."""
    assert run.codes == [[2, 0], [2, 0]]
    error = re.findall(r"^error: (.*)\nhint: (.*)$", run.said.partition("resuming from")[0], re.MULTILINE)
    assert len(error) == 1, run.said
    dump = run.folder / "skipped" / "step_00000006"
    assert error[0][0] == "3 steps in a row were skipped, the last is step_00000006: lane 1: loss_itc nan; " + (
        "lane 1: loss_itm nan; lane 1: loss_mlm nan"
    )
    assert f"`python -m pipeline replay {dump}`" in error[0][1]
    assert "Traceback" not in run.said
    lines = {line["step"]: line for line in map(json.loads, (run.folder / "metrics.jsonl").open())}
    assert [lines[step]["train/loss"] is None for step in range(1, 9)] == [step - 1 in BAD for step in range(1, 9)]
    assert lines[8]["optim/skipped_steps"] == 3
    log = (run.folder / "logs" / "local" / "rank_1.log").read_text()
    keys = json.loads((dump / "rank_1.json").read_text())["lanes"][0]["keys"]
    assert f"step 6, lane 1 was skipped with the samples {' '.join(keys)}" in log


def test_replay_finds_the_sample(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """With the weights of the skipped step: the sound lane's losses are the recorded ones to the last digit, the bad
    lane is first not finite in its second picture, and that sample leads the list; the others are finite alone."""
    dump = run.folder / "skipped" / "step_00000004"
    assert main(["replay", str(dump), "--device", "cpu", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert Path(report["checkpoint"]).name == "step_00000006", "saved after three skipped steps, with their weights"
    assert report["steps_away"] == 0
    sound, bad = report["lanes"]
    recorded = {lane: json.loads((dump / f"rank_{lane}.json").read_text())["lanes"][0] for lane in (0, 1)}
    assert sound["losses"] == recorded[0]["losses"]
    assert sound["finite"] and sound["samples"] == []
    culprit = recorded[1]["keys"][1]
    assert (bad["first_not_finite"], bad["in_samples"]) == ("the image", [culprit])
    assert bad["losses"]["loss"] == "nan" and len(bad["gradients_not_finite"]) > 0
    assert [sample["key"] for sample in bad["samples"] if not sample["finite"]] == [culprit]
    assert bad["samples"][0]["key"] == culprit
    assert sorted(sample["key"] for sample in bad["samples"]) == sorted(recorded[1]["keys"])

    assert main(["replay", str(dump), "--device", "cpu", "--precision", "bf16"]) == 0
    text = capsys.readouterr().out
    assert re.search(rf"^  first not finite: the image, in {culprit}$", text, re.MULTILINE), text
    assert re.search(r"^lane 0: .*, all finite$", text, re.MULTILINE), text
    assert f"{culprit}  NOT FINITE: the image" in text


def test_another_task_is_replayed_by_its_own_losses(tmp_path: Path) -> None:
    """A line that learns brightness: the NaN is in the sample that has it, and the report has the task's own names."""
    import torch

    from pipeline.checkpoints.meta import new_meta
    from pipeline.config.sections import WatchConfig
    from pipeline.data.loader import StepBatches
    from pipeline.engine.distributed import World
    from pipeline.engine.step_check import StepCheck
    from pipeline.watch.replay import Replayable, replay, text_of
    from pipeline.watch.skipped_step_dump import Dump, read_dump
    from pipeline.watch.skipped_steps import SkippedSteps, StepFacts
    from tests.support.brightness_task import Brightness, Pixels

    def make(checkpoint: Path, _dump: Dump, _device: torch.device, dtype: torch.dtype) -> Replayable:
        task = Brightness()
        assert dtype == torch.float32
        return Replayable(
            task=task,
            checkpoint=checkpoint,
            meta=new_meta(
                **{"run_name": "line", "step": 6, "epoch": 0, "samples_seen": 18, "config_hash": "0"},
                **{"world_size": 1, "zero_stage": 0, "precision": "fp32"},
            ),
            modules={"line": task.model},
            batch_of=lambda fields: Pixels(**fields),
        )

    batch = Pixels(image=torch.rand(3, 3, 8, 8), keys=["a", "b", "c"], captions=["", "", ""])
    batch.image[1, 0, 3, 3] = torch.nan
    skipped = SkippedSteps(
        tmp_path / "skipped",
        WatchConfig(),
        World(rank=0, local_rank=0, size=1, device=torch.device("cpu")),
        loss_names=["loss"],
    )
    skipped.record(
        StepBatches(step=6, epoch=0, lanes=[batch], skipped={}),
        range(1),
        StepCheck(losses=torch.full((1, 2), torch.nan), norm=1.0, bad_lanes=1),
        StepFacts(seed=1, scalars={"lane": 1.0}, zero_stage=0, precision="fp32", config_hash="0"),
    )
    dump = read_dump(tmp_path / "skipped" / "step_00000007")
    report = replay(dump, tmp_path, make, device="cpu", precision="fp32")
    (lane,) = report["lanes"]
    assert (lane["first_not_finite"], lane["in_samples"], list(lane["losses"])) == ("the image", ["b"], ["loss"])
    assert [sample["key"] for sample in lane["samples"] if not sample["finite"]] == ["b"]
    assert "weights of" in text_of(report) and "those of that step" in text_of(report)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere is not the dump of a skipped step: it has no rank_0.json"),
        (["skipped/step_00000006"], "holds the sample keys but not their batches"),
        (["skipped/step_00000004", "--checkpoint", "checkpoints/step_00000099"], "step_00000099 does not exist"),
    ],
)
def test_replay_says_what_is_missing(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    """No dump; a dump beyond watch.max_dumps, which has no batches; no such checkpoint: error, hint, 2."""
    monkeypatch.chdir(run.folder)
    assert main(["replay", *words, "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert message in said and "hint: " in said


@pytest.mark.parametrize(
    ("checkpoints", "skipped", "chosen"),
    [
        ((90, 99, 110), (), 99),  # exactly before it
        ((90, 100, 110), (), 100),  # after it, and it moved nothing
        ((90, 102), (101, 102), 102),  # all of those between were skipped
        ((90, 102), (101,), 90),  # 102 was not
        ((105,), (), None),
    ],
)
def test_the_checkpoint_with_the_weights_of_the_step(
    tmp_path: Path, checkpoints: tuple[int, ...], skipped: tuple[int, ...], chosen: int | None
) -> None:
    """A checkpoint counts by the steps between that moved the weights; a later one must have none of them."""
    from albef.errors import CheckpointError
    from pipeline.watch.replay import nearest_checkpoint
    from pipeline.watch.skipped_step_dump import Dump

    for step in checkpoints:
        published(tmp_path / "checkpoints", step)
    for step in (100, *skipped):
        (tmp_path / "skipped" / f"step_{step:08d}").mkdir(parents=True)
    dump = Dump(path=tmp_path / "skipped" / "step_00000100", facts={"step": 100}, batches={})
    if chosen is None:
        with pytest.raises(CheckpointError, match="no checkpoint of step 99 or before it"):
            nearest_checkpoint(dump)
    else:
        assert nearest_checkpoint(dump).name == f"step_{chosen:08d}"
