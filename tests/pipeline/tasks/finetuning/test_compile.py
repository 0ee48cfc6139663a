"""A compiled lane of each task: one graph of student and of teacher, and the numbers of one that is not compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from pipeline.config.resolve import load_config
from pipeline.task import LaneStep
from pipeline.tasks.makers import maker_of
from tests.support.entailment_run import entailment_recipe
from tests.support.finetuning import make_task
from tests.support.nlvr2_run import nlvr2_recipe
from tests.support.retrieval_run import retrieval_recipe
from tests.support.vqa_run import vqa_recipe

RECIPES = {
    "snli-ve": entailment_recipe,
    "nlvr2": nlvr2_recipe,
    "vqa": vqa_recipe,
    "retrieval": retrieval_recipe,
}
AT = LaneStep(step=5, epoch=5, lane=0, num_lanes=1, steps_per_epoch=1)
"""After the ramp of alpha: the teacher's targets count."""


@pytest.fixture(autouse=True)
def no_graphs_of_other_tests() -> Iterator[None]:
    """Graphs belong to code, and so to all models of a process."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def batch_of(recipe: Path, task: Any, indices: list[int]) -> Any:
    """The lane of these training entries."""
    config = load_config(recipe)
    corpus = maker_of(config.task).corpus(config)
    reader = corpus.reader()
    examples = [task.batcher.example(reader.read(ref), seed=0, epoch=0) for ref in corpus.locate(np.array(indices))]
    return task.batcher.batch(examples, seed=0, epoch=0, step=0, lane=0)


def with_longer_texts(batch: Any) -> Any:
    """The same texts with eight tokens of padding more."""
    texts = [name for name in ("input_ids", "attention_mask", "question_ids", "question_mask") if hasattr(batch, name)]
    return dataclasses.replace(batch, **{name: F.pad(getattr(batch, name), (0, 8)) for name in texts})


@pytest.mark.parametrize("task", RECIPES)
def test_a_compiled_lane_has_the_same_losses_and_gradients(task: str, tmp_path: Path) -> None:
    """Forward and backward as torch's compiler rewrites them, run operation by operation, dropout's draws and all.

    The second lane, of longer texts and of VQA with more answers, runs in the graphs of the first. fp32; 1e-6 of the
    largest gradient, because the gradients of what is used twice are added in another order.
    """
    recipe = RECIPES[task](tmp_path)
    counter = CompileCounterWithBackend("aot_eager")
    found: list[list[Tensor]] = []
    graphs = []
    for compiled in (False, True):
        made = make_task(recipe)
        batches = [batch_of(recipe, made, [0, 1, 2, 4]), with_longer_texts(batch_of(recipe, made, [5, 6, 7, 8]))]
        if compiled:
            made.compile(backend=counter)
        for batch in batches:
            torch.manual_seed(3)
            made.model.zero_grad()
            losses = made.losses(made.model, batch, AT)
            losses.total.backward()
            made.discard()
            assert losses.scalars["train/alpha"] == 0.4
            found.append([losses.values, *(w.grad for w in made.model.parameters() if w.grad is not None)])
            graphs.append(counter.frame_count)
    # on a CPU the student's is traced twice, because alpha, 0-d float64, is first taken for a number
    assert graphs[2] == graphs[3] <= 3, "the second lane runs in the graphs of the first"
    assert not torch.equal(found[0][0], found[1][0]), "the second lane is another one"
    largest = max(gradient.abs().max().item() for gradient in found[0][1:])
    for plain, other in zip(found[:2], found[2:], strict=True):
        assert torch.allclose(other[0], plain[0], rtol=1e-6, atol=1e-7)
        assert (
            max((one - two).abs().max().item() for one, two in zip(plain[1:], other[1:], strict=True)) < 1e-6 * largest
        )


@pytest.mark.parametrize("task", RECIPES)
def test_the_key_compiles_a_run(task: str, tmp_path: Path) -> None:
    """Student and teacher's targets, in place; with momentum distillation or, where that can be left out, without."""
    recipe: Callable[..., Path] = RECIPES[task]
    for flags in ([], ["--objective.distill=false"]):
        plain, compiled = (
            make_task(recipe(tmp_path), *flags, f"--model.compile={value}") for value in ("false", "true")
        )
        assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()
        assert hasattr(compiled.model.forward, "_torchdynamo_orig_callable")
        assert not hasattr(plain.model.forward, "_torchdynamo_orig_callable")
