"""Text assignment in real runs: one rank, two that are killed and resumed; what NLVR2 starts from; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from albef import AlbefAlignment
from albef.weights.official import read_official
from pipeline import cli
from pipeline.config.resolve import load_config
from pipeline.data.seeds import generator
from pipeline.engine.distributed import World
from pipeline.tasks.nlvr2.maker import NLVR2
from pipeline.tasks.text_assignment.maker import ALIGNMENT
from tests.support.alignment_run import alignment_recipe
from tests.support.finetuning import digest, run
from tests.support.nlvr2_run import nlvr2_recipe
from tests.support.refusal import refusal

ALONE = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 pairs in shards, a pretrained model of 48 px, and a recipe of two lanes of four, four steps."""
    made = tmp_path_factory.mktemp("alignment")
    alignment_recipe(made)
    return made


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """The run on one rank, never stopped."""
    return run(folder / "recipe.yaml", "alone")


@pytest.mark.timeout(300)
def test_two_ranks_killed_and_resumed_take_the_steps_of_one(folder: Path, alone: Path) -> None:
    """ZeRO 2, kill -9 in step 3 and a save after step 2: every byte of the model. The log has loss and accuracy."""
    two_ranks = ["--deepspeed.config=zero2_fp32"]
    with pytest.raises(RuntimeError, match="exit code -9"):
        run(folder / "recipe.yaml", "killed", *two_ranks, ranks=2, kill_in=3)
    assert digest(run(folder / "recipe.yaml", "killed", *two_ranks, ranks=2)) == digest(alone)
    lines = [json.loads(line) for line in (alone / "metrics.jsonl").read_text().splitlines()]
    accuracies = [line["train/accuracy"] for line in lines if "train/accuracy" in line]
    assert len(accuracies) == 4 and all(value * 8 == round(value * 8) for value in accuracies), "of eight texts a step"
    config = load_config(alone / "config.yaml")
    assert (config.task, config.validation.every_steps) == ("nlvr2-pretrain", 0), "its own config is a recipe"


def test_nlvr2_starts_from_what_it_leaves(folder: Path, alone: Path, tmp_path: Path) -> None:
    """From the exported folder and from the official file: every weight but NLVR2's own head, bit for bit."""
    for layout in ("hf", "official"):
        assert cli.main(["export", str(alone), "--out", str(tmp_path / layout), "--format", layout]) == 0
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    read = read_official(tmp_path / "official" / "albef.pth", vision_heads=2, text_heads=2)
    assert read.teacher is None and read.student.keys() == weights.keys()
    assert all(torch.equal(read.student[name], weight) for name, weight in weights.items())
    recipe = nlvr2_recipe(tmp_path)
    for start in (tmp_path / "hf", tmp_path / "official" / "albef.pth"):
        ours = NLVR2.make(load_config(recipe, [f"--init.model={start}"]), ALONE, torch.float32).model.state_dict()
        shared = [name for name in ours if not name.startswith("cls_head.")]
        assert len(shared) == len(ours) - 4 and all(torch.equal(ours[name], weights[name]) for name in shared)
    model = AlbefAlignment.from_pretrained(tmp_path / "hf", "cpu")
    found = model.assign(torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32), ["a cup", "two cups on a table"])
    assert found.shape == (2, 3) and torch.allclose(found.sum(dim=1), torch.ones(2))
    assert "finetune nlvr2" in (tmp_path / "hf" / "README.md").read_text()


def test_the_recipe_s_bf16_on_two_ranks_leaves_the_weights_that_no_loss_reads(folder: Path, tmp_path: Path) -> None:
    """ZeRO 1 in bf16: the temperature stays, the projections lose at most their decay of two steps, the rest moves."""
    bf16 = run(folder / "recipe.yaml", "bf16", "--deepspeed.config=zero1_bf16", "--max_steps=2", ranks=2)
    assert cli.main(["export", str(bf16), "--out", str(tmp_path / "hf")]) == 0
    after, before = (load_file(path / "model.safetensors") for path in (tmp_path / "hf", folder / "pretrained"))
    assert torch.equal(after["temperature"], before["temperature"])
    for name in ("text_proj.weight", "image_proj.weight"):
        assert torch.allclose(after[name], before[name], rtol=2 * 1e-3 * 0.02, atol=0.0)  # steps x lr x weight decay
    name = "multimodal_encoder.layers.{}.self_attention.query.weight"
    assert not torch.allclose(after[name.format(1)], before[name.format(0)], rtol=1e-3)


def test_pairs_are_drawn_by_lane_and_what_is_pretrained_starts_each_pair_of_layers(folder: Path) -> None:
    """The draws' name is (seed, epoch, step, lane); captions and pixels do not depend on it."""
    run = load_config(folder / "recipe.yaml")
    task: Any = ALIGNMENT.make(run, ALONE, torch.float32)
    corpus = ALIGNMENT.corpus(run)
    raws = [corpus.reader().read(ref) for ref in corpus.locate(np.arange(4))]
    examples = [task.batcher.example(raw, seed=5, epoch=1) for raw in raws]
    one, two = (task.batcher.batch(examples, seed=5, epoch=1, step=7, lane=lane) for lane in (0, 1))
    assert torch.equal(one.draws, torch.rand(4, 4, generator=generator(5, "pairs", 1, 7, 0), dtype=torch.float64))
    assert torch.equal(one.image, two.image) and one.captions == two.captions and not torch.equal(one.draws, two.draws)
    assert one.image.dtype == torch.uint8 and one.image.shape == (4, 3, 32, 32)
    pretrained = load_file(folder / "pretrained" / "model.safetensors")
    ours = task.model.state_dict()
    for layer in (0, 1):
        name = "multimodal_encoder.layers.{}.self_attention.query.weight"
        assert torch.equal(ours[name.format(layer)], pretrained[name.format(0)])


def test_too_few_texts_and_keys_of_other_tasks_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two texts a lane have no two other images; there is no validation, and nothing to distill."""
    command = ["check", str(folder / "recipe.yaml"), "--run-dir", str(folder / "new")]
    assert cli.main(command) == 0
    said = refusal(capsys, [*command, "--batch.micro_batch_size=2"])
    assert "two other images are drawn for a text" in said and "use micro_batch_size 3 or more" in said
    assert "objective.alpha is not a key of the task nlvr2-pretrain" in refusal(
        capsys, [*command, "--objective.alpha=0"]
    )
