"""Fine-tuning on SNLI-VE in real runs: one rank and two, each ZeRO stage, killed and resumed; and what it refuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from albef.errors import CheckpointError
from albef.model import AlbefForPretraining
from albef.weights.official import to_official
from pipeline import cli
from pipeline.data.annotations.corpus import read_annotations
from pipeline.engine.distributed import World
from pipeline.task import LaneStep
from pipeline.tasks.snli_ve.annotations import FORMAT
from tests.support.entailment_run import entailment_recipe, write_entries
from tests.support.finetuning import digest, make_task, pretrained_folder, run, scalars, shape
from tests.support.tiny_run import tiny_recipe

ALONE = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, recipe and pretrained model."""
    made = tmp_path_factory.mktemp("snli_ve")
    entailment_recipe(made)
    return made


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """Six steps on one rank, without sharding."""
    return run(folder / "entailment.yaml", "alone")


def test_accuracy_is_of_every_entry_and_alpha_from_the_first_step_on(alone: Path) -> None:
    """Of seven entries three contradict: before the first step, every third and after the last."""
    accuracy = scalars(alone, "val/")
    assert sorted(accuracy) == [0, 3, 6]
    for values in accuracy.values():
        assert values["val/accuracy"] * 7 / 100 == pytest.approx(round(values["val/accuracy"] * 7 / 100))
        assert values["val/majority"] == pytest.approx(100 * 3 / 7)
    assert {values["train/alpha"] for values in scalars(alone, "train/alpha").values()} == {0.4}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", [1, 2])
def test_two_ranks_and_each_stage_take_the_steps_of_one(folder: Path, alone: Path, stage: int) -> None:
    """With a data worker or none: every byte of student and teacher, and the accuracy, though two ranks do not divide
    seven entries."""
    overrides = [f"--deepspeed.config=zero{stage}_fp32", f"--data.num_workers={stage % 2}"]
    other = run(folder / "entailment.yaml", f"zero{stage}", *overrides, ranks=2)
    assert digest(other) == digest(alone)
    assert scalars(other, "val/") == scalars(alone, "val/")


@pytest.mark.timeout(600)
def test_killed_and_finished_by_the_command_of_a_user(folder: Path, alone: Path) -> None:
    """kill -9 in step 4, saves every second step; `pipeline finetune snli-ve` resumes: to the bit."""
    saving = ["--checkpoint.save_every=2", "--checkpoint.asynchronous=false"]
    with pytest.raises(RuntimeError, match="exit code -9"):
        run(folder / "entailment.yaml", "killed", *saving, kill_in=4)
    assert not (folder / "killed" / "checkpoints" / "step_00000004").exists()
    command = ["finetune", "snli-ve", str(folder / "entailment.yaml"), "--run-dir", str(folder / "killed")]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *command, "--resume", "must"],
        env=os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert "step 2 of 6" in done.stderr
    assert digest(folder / "killed") == digest(alone)


def test_other_entries_or_another_task_are_not_resumed_on(
    folder: Path, alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `check`, with the numbers of both."""
    other = write_entries(tmp_path, 16)
    flags = ["--run-dir", str(alone), f"--data.annotations={other}", f"--data.images={tmp_path / 'images'}"]
    assert cli.main(["check", str(folder / "entailment.yaml"), *flags]) == 2
    assert re.search(r"run on other data: 24 samples .* then, 16 samples", capsys.readouterr().err)
    assert cli.main(["check", str(tiny_recipe(tmp_path)), "--run-dir", str(alone), "--without-data"]) == 2
    assert "task was snli-ve, is pretraining" in capsys.readouterr().err


def test_check_shows_a_recipe_and_what_would_stop_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Steps, memory and rates without a GPU; each error at once, nothing made."""
    recipe = str(folder / "entailment.yaml")
    assert cli.main(["check", recipe, "--run-dir", str(folder / "new")]) == 0
    shown = capsys.readouterr().out
    assert "24 samples, 0 of them left out" in shown and "3 steps an epoch, 6 steps in all" in shown
    assert re.search(r"teacher +0\.\d\d GiB", shown)
    flags = ["--data.images=nowhere", "--init.model=nothing", "--validation.annotations=gone.json"]
    assert cli.main(["check", recipe, "--run-dir", str(folder / "new"), *flags]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    for error, words in zip(errors, ("nowhere", "nothing", "nowhere"), strict=True):
        assert words in error
    assert not (folder / "new").exists()


def made(folder: Path, *overrides: str) -> Any:
    """The task of a run, without an engine."""
    return make_task(folder / "entailment.yaml", *overrides)


def test_the_start_is_reported_and_the_teacher_starts_equal(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The encoders are the pretrained ones, at another image size; the head is new; the teacher has all of it."""
    with caplog.at_level("INFO"):
        task = made(folder)
    pretrained = load_file(folder / "pretrained" / "model.safetensors")
    ours = task.model.state_dict()
    shared = [name for name in ours if not name.startswith(("cls_head.", "image_encoder.pos_embed"))]
    assert len(shared) > 50 and all(torch.equal(ours[name], pretrained[name]) for name in shared)
    (line,) = [record.message for record in caplog.records if "weights from" in record.message]
    assert line.startswith(f"{len(shared) + 1} of {len(ours)} weights") and "resized from 9 to 4 patches" in line
    assert "random: cls_head.0.weight, cls_head.0.bias, cls_head.2.weight, cls_head.2.bias" in line
    assert "not used: " in line and "itm_head.weight" in line
    averaged = task.state()["teacher"]
    assert averaged.keys() == dict(task.model.named_parameters()).keys()
    assert all(torch.equal(averaged[name], weight) for name, weight in task.model.named_parameters())
    assert made(folder, "--objective.distill=false").state() == {}


def test_a_source_without_the_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    """Too few weights, another number of heads, another depth: by name and number, before any step."""
    weights = load_file(folder / "pretrained" / "model.safetensors")
    lacking = pretrained_folder(tmp_path / "lacking")
    save_file({name: one for name, one in weights.items() if "multimodal" not in name}, lacking / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing \(multimodal_encoder"):
        made(folder, f"--init.model={lacking}")
    heads = pretrained_folder(tmp_path / "heads", text_heads=4)
    with pytest.raises(CheckpointError, match="has text_heads 4, the recipe's model 2"):
        made(folder, f"--init.model={heads}")
    shallow = pretrained_folder(tmp_path / "shallow", vision_depth=1)
    with pytest.raises(CheckpointError, match=r"missing \(image_encoder\.blocks\.1"):
        made(folder, f"--init.model={shallow}")


def test_an_official_checkpoint_starts_it_too(folder: Path, tmp_path: Path) -> None:
    """The same weights in the official layout give the same model."""
    model = AlbefForPretraining(shape(image_size=48))
    model.load_state_dict(load_file(folder / "pretrained" / "model.safetensors"))
    torch.save({"model": to_official(model.state_dict(), None, None)}, tmp_path / "ALBEF.pth")
    ours = made(folder).model.state_dict()
    theirs = made(folder, f"--init.model={tmp_path / 'ALBEF.pth'}").model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_model_that_stays_at_the_majority_class_is_reported(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From the step on that the recipe names, with both figures and the class; not before."""
    task = made(folder, "--validation.majority_after_steps=5")
    with torch.no_grad():
        task.model.cls_head[2].weight.zero_()
        task.model.cls_head[2].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    for steps_done in (4, 5):
        task.advance(None, steps_done=steps_done)
        values = task.validate(None, lambda *_: None)
        assert values["val/accuracy"] == values["val/majority"] == pytest.approx(300 / 7)
        assert values["val/accuracy_contradiction"] == 100.0 and values["val/accuracy_entailment"] == 0.0
        assert ("always answering contradiction would be in 42.86%" in caplog.text) == (steps_done == 5)
    assert task.model.training, "validation leaves the modes as they were"


def test_ten_entries_are_learned_by_heart(folder: Path, tmp_path: Path) -> None:
    """Labels and sentences belong together: 40 steps of AdamW on ten entries bring the loss near 0."""
    task = made(folder, "--objective.distill=false", "--model.hidden_dropout=0", "--model.attention_dropout=0")
    entries = write_entries(tmp_path, 10)
    corpus = read_annotations([str(entries)], [str(tmp_path / "images")], FORMAT)
    reader = corpus.reader()
    examples = [task.batcher.example(reader.read(ref), seed=0, epoch=0) for ref in corpus.locate(np.arange(10))]
    batch = task.batcher.batch(examples, seed=0, epoch=0, step=0, lane=0)
    assert batch.captions[1] == "a neutral thing 1" and batch.labels.tolist() == [n % 5 % 3 for n in range(10)]
    assert batch.input_ids.shape[1] % 8 == 0
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=3e-3)
    at = LaneStep(step=0, epoch=0, lane=0, num_lanes=1, steps_per_epoch=1)
    for _ in range(40):
        losses = task.losses(task.model, batch, at)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
    loss, accuracy = losses.values.tolist()
    assert loss < 0.05 and accuracy == 1.0
