"""A compiled lane: whole graphs, two of each kind for all captions, and the numbers of one that is not compiled."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from albef.inputs.batch import PretrainBatch
from albef.model import AlbefForPretraining
from albef.momentum import MomentumTeacher
from albef.objective.queue import FeatureQueue
from demo.pictures import read_pictures
from pipeline.checkpoints.layout import read_meta
from pipeline.config.resolve import load_config
from pipeline.task import LaneStep
from pipeline.tasks.pretraining.maker import PRETRAINING
from pipeline.tasks.pretraining.task import Pretraining
from samples.captions import clean_caption
from tests.pipeline.tasks.pretraining.test_shapes import OBJECTIVE, lane
from tests.support.ranks import run_ranks
from tests.support.small_model import small_config
from tests.support.tiny_run import tiny_recipe
from tests.support.training_runs import digest, newest, run
from tests.support.wrapped_task import WrappedTask, stop_after, wrapped

NUM_STEPS = 1_000
GRAPHS = 2
"""Of student and teacher each: texts of a multiple of 8 tokens, and of 25."""


@pytest.fixture(autouse=True)
def no_graphs_of_other_tests() -> Iterator[None]:
    """Graphs belong to code, and so to all models of a process."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def task_of() -> Pretraining:
    torch.manual_seed(0)
    student = AlbefForPretraining(small_config(), OBJECTIVE).train()
    queue = FeatureQueue(OBJECTIVE.queue_size, student.config.embed_dim, seed=1)
    return Pretraining.of_parts(student, MomentumTeacher(student, device="cpu"), queue)


def captions() -> list[str]:
    return sorted({clean_caption(caption) for picture in read_pictures() for caption in picture.captions})


def test_a_thousand_steps_of_real_captions_have_few_graphs() -> None:
    """Of 1,000 lanes of 16 of the demo's captions every shape, twice, and each time another alpha of the ramp.

    The backend runs a graph as it was traced. A break, or a step outside of any graph, raises: fullgraph.
    """
    task, counter = task_of(), CompileCounterWithBackend("eager")
    task.alpha_ramp_epochs = 1.0
    task.compile(backend=counter)
    drawn, words, image = random.Random(0), captions(), torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    lanes: dict[tuple[int, int], tuple[int, PretrainBatch]] = {}
    for step in range(NUM_STEPS):
        batch = lane(drawn.sample(words, 16), step=step, image=image)
        lanes.setdefault((batch.input_ids.shape[1], len(batch.mlm_positions)), (step, batch))
    assert {length for length, _ in lanes} == {8, 16, 24, 25} and len(lanes) >= 6
    for step, batch in [*lanes.values(), *((NUM_STEPS // 2 + step, batch) for step, batch in lanes.values())]:
        at = LaneStep(step=step, epoch=0, lane=0, num_lanes=1, steps_per_epoch=2 * NUM_STEPS)
        task.losses(task.model, batch, at)
        task.queue.enqueue()
    assert counter.frame_count <= 2 * GRAPHS


def test_a_compiled_lane_has_the_same_losses_and_gradients() -> None:
    """Forward and backward as torch's compiler rewrites them, run operation by operation: dropout's draws and all.

    The second text length and number of masked tokens run in the graph of the first. fp32; 1e-6 of the largest
    gradient, because the gradients of what is used twice are added in another order.
    """
    words, alpha = captions(), torch.tensor(0.3)  # 0-d float64 on a CPU would be traced twice, as if it were a number
    short, long = ([word for word in words if (len(word.split()) > 12) is wanted] for wanted in (False, True))
    image = torch.randn(3, 32, 32)
    batches = [lane(list(chosen[:6]), image=image) for chosen in (long, short)]
    assert len({(batch.input_ids.shape[1] % 8, batch.input_ids.shape[1]) for batch in batches}) == 2
    found: list[list[Tensor]] = []
    for backend in (None, "aot_eager"):
        task = task_of()
        if backend is not None:
            task.compile(backend=backend)
        for batch in batches:
            torch.manual_seed(3)
            task.model.zero_grad()
            output = task.model(batch, task.targets(batch), task.queue, alpha)
            output.total.backward()
            gradients = [weight.grad for weight in task.model.parameters() if weight.grad is not None]
            found.append([output.total, *gradients])
    largest = max(gradient.abs().max().item() for gradient in found[0][1:])
    for plain, other in zip(found[:2], found[2:], strict=True):
        assert other[0].item() == pytest.approx(plain[0].item(), rel=1e-6)
        assert max((one - two).abs().max().item() for one, two in zip(plain, other, strict=True)) < 1e-6 * largest


def stop_at_four(_rank: int, _world_size: int, recipe: str, run_dir: str, overrides: list[str]) -> int:
    """Train with a backend that compiles quickly, and stop after four steps."""
    from pipeline.train import train

    maker = dataclasses.replace(PRETRAINING, make=partial(Pretraining.of_run, backend="eager"))
    stopping = partial(WrappedTask, after=stop_after(4, on_this_rank=True))
    return train(load_config(Path(recipe), overrides), Path(run_dir), wrapped(maker, stopping))


def test_checkpoints_do_not_depend_on_it(tmp_path: Path) -> None:
    """Four steps compiled, stop, two not compiled == six not compiled: every byte of weights, teacher and queue.

    The backend runs a graph as it was traced, so bits can be compared. Four, because DeepSpeed's timer, which no graph
    may hold, starts in the third.
    """
    recipe, choice = str(tiny_recipe(tmp_path)), ["--deepspeed.config=zero1_bf16", "--max_steps=6"]
    compiled = [*choice, "--model.compile=true"]
    codes = run_ranks(stop_at_four, 1, recipe, str(tmp_path / "parts"), compiled, process_group=False, timeout_s=200)
    assert codes == [75] and read_meta(newest(tmp_path / "parts")).step == 4
    assert digest(run(tmp_path, "parts", overrides=choice)) == digest(run(tmp_path, "whole", overrides=choice))
