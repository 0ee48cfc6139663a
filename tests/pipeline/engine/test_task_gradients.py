"""Gradients of two ranks at each ZeRO stage, for the tasks whose official models pass a module twice in a step.

DeepSpeed 0.18.3 to 0.19.3 lost parts of such gradients at stage 2 (deepspeedai/DeepSpeed#8224). Our models pass each
module once; one here passes its image encoder twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from albef.downstream.nlvr2 import AlbefForNlvr2
from albef.downstream.vqa import AlbefForVqa
from albef.inputs.nlvr2_batch import Nlvr2Batch
from albef.inputs.vqa_batch import VqaBatch, decoder_inputs
from tests.albef.small import CONFIG
from tests.support.ranks import run_ranks

RANKS, QUESTIONS, STAGES = 2, 2, (0, 1, 2)
ALPHA = torch.tensor(0.4, dtype=torch.float64)
CLOSE = 2e-6
"""Error of a float32 gradient, relative to its tensor's largest entry, or to the largest weight where that is larger:
it is read off the weights, which round at 6e-8 of their size. A lost part of a gradient is off by its own size."""
ZERO = 1e-3
"""Gradients below this are rounding: a softmax does not see the biases of keys."""
MASK = (torch.arange(6) < torch.tensor([[6], [4]])).long()
"""Of two texts."""

Step = tuple[torch.nn.Module, Any, Any]
"""A model, a rank's batch, and its soft targets."""


def vqa(rank: int, dtype: torch.dtype) -> Step:
    """The ranks have the same number of questions, and other numbers of answers."""
    generator = torch.Generator().manual_seed(rank)
    counts = torch.tensor(([1, 3], [3, 2])[rank])
    num_answers = int(counts.sum())
    answers = torch.randint(5, CONFIG.vocab_size, (num_answers, 5), generator=generator)
    inputs = decoder_inputs(answers, (torch.arange(5) < 3 + torch.arange(num_answers)[:, None] % 3).long())
    batch = VqaBatch(
        image=torch.randn(QUESTIONS, 3, CONFIG.image_size, CONFIG.image_size, generator=generator).to(dtype),
        question_ids=torch.randint(5, CONFIG.vocab_size, MASK.shape, generator=generator),
        question_mask=MASK,
        answer_ids=inputs.ids,
        answer_question=torch.arange(QUESTIONS).repeat_interleave(counts),
        answer_weights=torch.rand(num_answers, generator=generator),
        answer_positions=inputs.positions,
        answer_labels=inputs.labels,
    )
    model, teacher = (seeded(lambda: AlbefForVqa(CONFIG), seed).to(dtype) for seed in (0, 1))
    assert isinstance(teacher, AlbefForVqa)
    with torch.no_grad():
        return model, batch, teacher.answer_logits(batch)


class EachImageAlone(AlbefForNlvr2):
    """Passes the image encoder twice in a step."""

    def predict(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        embeds = torch.cat([self.image_encoder(half) for half in image.chunk(2)])
        logits: Tensor = self.cls_head(self.fuse_cls(input_ids, attention_mask, embeds))
        return logits


def nlvr2(rank: int, dtype: torch.dtype, kind: type[AlbefForNlvr2] = AlbefForNlvr2) -> Step:
    """Two statements about two images each."""
    generator = torch.Generator().manual_seed(rank)
    batch = Nlvr2Batch(
        image=torch.randn(2 * QUESTIONS, 3, CONFIG.image_size, CONFIG.image_size, generator=generator).to(dtype),
        input_ids=torch.randint(5, CONFIG.vocab_size, MASK.shape, generator=generator),
        attention_mask=MASK,
        labels=torch.tensor([rank, 1]),
    )
    model, teacher = (seeded(lambda: kind(CONFIG), seed).to(dtype) for seed in (0, 1))
    assert isinstance(teacher, AlbefForNlvr2)
    with torch.no_grad():
        return model, batch, teacher.predict(batch.image, batch.input_ids, batch.attention_mask)


def nlvr2_twice(rank: int, dtype: torch.dtype) -> Step:
    """The same, each image by itself."""
    return nlvr2(rank, dtype, EachImageAlone)


TASKS = (vqa, nlvr2, nlvr2_twice)


def seeded(build: Callable[[], torch.nn.Module], seed: int) -> torch.nn.Module:
    """The model with weights large enough that no two inputs look alike, in eval mode."""
    torch.manual_seed(seed)
    model = build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    return model


def test_two_ranks_have_the_gradients_of_one() -> None:
    """At each stage, every parameter's is the mean of the ranks' in float64, computed without DeepSpeed."""
    by_rank = run_ranks(_gradients, RANKS, process_group=False)
    for task in TASKS:
        steps = [task(rank, torch.float64) for rank in range(RANKS)]
        model = steps[0][0]
        loss = torch.stack([model(batch, targets, ALPHA).total for _, batch, targets in steps]).mean()
        expected = torch.autograd.grad(loss, list(model.parameters()))
        for gradients, stage in ((rank[task.__name__, stage], stage) for rank in by_rank for stage in STAGES):
            assert gradients.keys() == dict(model.named_parameters()).keys()
            for (name, weight), gradient in zip(model.named_parameters(), expected, strict=True):
                error = float((gradients[name].double() - gradient).abs().max())
                size = max(float(gradient.abs().max()), float(weight.detach().abs().max()), ZERO)
                assert error <= CLOSE * size, f"{task.__name__} at stage {stage}, {name}: off by {error:.2e} of {size}"


def _gradients(rank: int, world_size: int) -> dict[tuple[str, int], dict[str, Tensor]]:
    """What a step of plain SGD with a rate of 1 subtracts from each weight, by task and ZeRO stage."""
    import deepspeed

    from pipeline.engine import distributed

    distributed.init()
    cases = [(task, stage) for task in TASKS for stage in STAGES]
    return {(task.__name__, stage): _step(deepspeed, stage, *task(rank, torch.float32)) for task, stage in cases}


def _step(deepspeed: Any, stage: int, model: torch.nn.Module, batch: Any, targets: Any) -> dict[str, Tensor]:
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        config={
            "train_micro_batch_size_per_gpu": QUESTIONS,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 0.0,
            "steps_per_print": 1_000,
            "zero_optimization": {"stage": stage, "reduce_bucket_size": 10_000, "allgather_bucket_size": 10_000},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        },
        dist_init_required=False,
    )
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    engine.backward(engine(batch, targets, ALPHA).total)
    engine.step()
    gradients = {name: before[name] - parameter.detach() for name, parameter in model.named_parameters()}
    engine.destroy()
    return gradients
