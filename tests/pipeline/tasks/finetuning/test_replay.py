"""`pipeline replay` of every fine-tuning task: the sample with which a step of a real run went wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from pipeline.cli import main
from pipeline.config.resolve import load_config
from pipeline.tasks.makers import maker_of
from tests.support.alignment_run import alignment_recipe
from tests.support.entailment_run import entailment_recipe
from tests.support.nlvr2_run import nlvr2_recipe
from tests.support.poison import keep_process_group
from tests.support.ranks import run_ranks
from tests.support.retrieval_run import retrieval_recipe
from tests.support.vqa_run import vqa_recipe

RECIPES: dict[str, Callable[[Path], Path]] = {
    "snli-ve": entailment_recipe,
    "vqa": vqa_recipe,
    "retrieval": retrieval_recipe,
    "nlvr2-pretrain": alignment_recipe,
    "nlvr2": nlvr2_recipe,
}


def poisoned(_rank: int, _world: int, recipes: dict[str, str], folder: str) -> list[int]:
    """Two steps of each task, whose second loses a pixel of lane 1's second sample, in the last of its images."""
    keep_process_group()
    codes = []
    for task, recipe in recipes.items():
        run = load_config(recipe)
        batcher = type(maker_of(task).sketch(run, torch.float32).batcher)
        collated = batcher.batch

        def batch(batcher: Any, examples: Any, *, step: int, lane: int, collated: Any = collated, **at: Any) -> Any:
            made = collated(batcher, examples, step=step, lane=lane, **at)
            if (step, lane) == (1, 1):
                made = made.normalised()  # bytes could not hold it
                made.image[len(made.image) - len(made.keys) + 1, 0, 3, 3] = math.nan
            return made

        with patch.object(batcher, "batch", batch):
            codes.append(main(["finetune", task, recipe, "--run-dir", f"{folder}/{task}", "--max_steps=2"]))
    return codes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("replay")
    recipes = {}
    for task, recipe in RECIPES.items():
        (made / "data" / task).mkdir(parents=True)
        recipes[task] = str(recipe(made / "data" / task))
    assert run_ranks(poisoned, 1, recipes, str(made), process_group=False, timeout_s=250) == [[0] * len(RECIPES)]
    return made


@pytest.mark.parametrize("task", list(RECIPES))
def test_the_sample_is_found(folder: Path, capsys: pytest.CaptureFixture[str], task: str) -> None:
    """With the weights of the skipped step: the sound lane has the recorded losses to the last digit, the bad one is
    first not finite in its second sample, which alone is so too; the others are finite alone."""
    dump = folder / task / "skipped" / "step_00000002"
    capsys.readouterr()
    assert main(["replay", str(dump), "--device", "cpu", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["steps_away"] == 0
    sound, bad = report["lanes"]
    recorded = json.loads((dump / "rank_0.json").read_text())["lanes"]
    assert sound["losses"] == recorded[0]["losses"] and sound["finite"]
    culprit = recorded[1]["keys"][1]
    assert (bad["first_not_finite"], bad["in_samples"]) == ("the image", [culprit])
    assert bad["samples"][0]["key"] == culprit and bad["samples"][0]["in_samples"] == [culprit]
    assert [sample["key"] for sample in bad["samples"] if not sample["finite"]] == [culprit]
    assert sorted(sample["key"] for sample in bad["samples"]) == sorted(recorded[1]["keys"])
    assert main(["replay", str(dump), "--device", "cpu", "--precision", "bf16"]) == 0
    assert f"{culprit}  NOT FINITE: the image" in capsys.readouterr().out
