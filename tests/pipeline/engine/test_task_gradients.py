"""Gradients of two ranks at each ZeRO stage, for the models of all tasks after pretraining.

Some official models pass a module twice in a step, and DeepSpeed 0.18.3 to 0.19.3 lost parts of such gradients at
stage 2 (deepspeedai/DeepSpeed#8224). Our models pass each module once; one here passes its image encoder twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from albef.downstream.nlvr2 import AlbefForNlvr2
from albef.downstream.retrieval import AlbefForRetrieval, RetrievalTeacher
from albef.downstream.snli_ve import AlbefForEntailment, EntailmentTeacher
from albef.downstream.vqa import AlbefForVqa
from albef.inputs.nlvr2_batch import Nlvr2Batch
from albef.inputs.retrieval_batch import RetrievalBatch
from albef.inputs.snli_ve_batch import EntailmentBatch
from albef.inputs.vqa_batch import VqaBatch, decoder_inputs
from albef.objective.queue import FeatureQueue
from tests.albef.small import CONFIG
from tests.support.ranks import run_ranks

RANKS, QUESTIONS = 2, 2
ALPHA = torch.tensor(0.4, dtype=torch.float64)
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 0.06}
"""Norm of a gradient's error, relative to the float64 gradient's: bf16 rounds at 0.4%, many times over in a backward. A
lost part of a gradient is off by its own size."""
NOTHING = 0.01
"""Share of the largest norm; the error of a smaller gradient is compared with it: a softmax does not see the biases of
keys, so theirs are rounding alone."""
MASK = (torch.arange(6) < torch.tensor([[6], [4]])).long()
"""Of two texts."""

Step = tuple[torch.nn.Module, tuple[Any, ...]]
"""A model, and the arguments of its forward before alpha: a rank's batch, its soft targets, the queue."""


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
        return model, (batch, teacher.answer_logits(batch))


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
        return model, (batch, teacher.predict(batch.image, batch.input_ids, batch.attention_mask))


def nlvr2_twice(rank: int, dtype: torch.dtype) -> Step:
    """The same, each image by itself."""
    return nlvr2(rank, dtype, EachImageAlone)


def snli_ve(rank: int, dtype: torch.dtype) -> Step:
    """Two hypotheses."""
    generator = torch.Generator().manual_seed(rank)
    batch = EntailmentBatch(
        image=torch.randn(QUESTIONS, 3, CONFIG.image_size, CONFIG.image_size, generator=generator).to(dtype),
        input_ids=torch.randint(5, CONFIG.vocab_size, MASK.shape, generator=generator),
        attention_mask=MASK,
        labels=torch.tensor([rank, 2]),
    )
    model, other = (seeded(lambda: AlbefForEntailment(CONFIG), seed).to(dtype) for seed in (0, 1))
    assert isinstance(other, AlbefForEntailment)
    return model, (batch, EntailmentTeacher(other, device="cpu").targets(batch))


def retrieval(rank: int, dtype: torch.dtype) -> Step:
    """Two pairs: each has the other as its negative, and one has positives in the queue."""
    generator = torch.Generator().manual_seed(rank)
    batch = RetrievalBatch(
        image=torch.randn(QUESTIONS, 3, CONFIG.image_size, CONFIG.image_size, generator=generator).to(dtype),
        input_ids=torch.randint(5, CONFIG.vocab_size, MASK.shape, generator=generator),
        attention_mask=MASK,
        image_ids=torch.tensor([rank, 7]),
        negative_draws=torch.full((2, QUESTIONS), 0.5, dtype=torch.float64),
    )
    model, other = (seeded(lambda: AlbefForRetrieval(CONFIG), seed).to(dtype) for seed in (0, 1))
    assert isinstance(other, AlbefForRetrieval)
    queue = FeatureQueue(6, CONFIG.embed_dim, seed=2, dtype=dtype, with_ids=True)
    assert queue.ids is not None
    queue.ids[2:4] = 7
    return model, (batch, RetrievalTeacher(other, device="cpu").targets(batch), queue)


Case = tuple[Callable[[int, torch.dtype], Step], int, torch.dtype]
"""A task, a ZeRO stage, and the precision of the forward."""
CASES: list[Case] = [
    *((task, stage, torch.float32) for task in (vqa, nlvr2, snli_ve, retrieval) for stage in (0, 1, 2)),
    (nlvr2_twice, 2, torch.float32),
    *((task, 2, torch.bfloat16) for task in (vqa, snli_ve, retrieval)),
    (nlvr2_twice, 2, torch.bfloat16),  # what DeepSpeed lost
]


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
    expected = {task: _expected(task) for task, _, _ in CASES}
    for of_rank in run_ranks(_gradients, RANKS, process_group=False):
        for (task, stage, dtype), gradients in zip(CASES, of_rank, strict=True):
            wanted = expected[task]
            assert gradients.keys() == wanted.keys()
            largest = max(float(gradient.norm()) for gradient in wanted.values())
            for name, gradient in wanted.items():
                error = float((gradients[name].double() - gradient).norm())
                size = max(float(gradient.norm()), NOTHING * largest)
                where = f"{task.__name__} at stage {stage} in {dtype}, {name}"
                assert error <= CLOSE[dtype] * size, f"{where}: off by {error:.2e} of {size:.2e}"


def _expected(task: Callable[[int, torch.dtype], Step]) -> dict[str, Tensor]:
    """Gradients of the mean of the ranks' losses, in one process."""
    steps = [task(rank, torch.float64) for rank in range(RANKS)]
    model = steps[0][0]
    loss = torch.stack([model(*arguments, ALPHA).total for _, arguments in steps]).mean()
    names = [name for name, _ in model.named_parameters()]
    return dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))


def _gradients(rank: int, world_size: int) -> list[dict[str, Tensor]]:
    """Of each case, what DeepSpeed gives the optimizer."""
    from pipeline.engine import distributed

    distributed.init()
    return [_backward(stage, dtype, *task(rank, torch.float32)) for task, stage, dtype in CASES]


def _backward(stage: int, dtype: torch.dtype, model: torch.nn.Module, arguments: tuple[Any, ...]) -> dict[str, Tensor]:
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        config={
            "train_micro_batch_size_per_gpu": QUESTIONS,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 0.0,
            "steps_per_print": 1_000,
            "bf16": {"enabled": dtype == torch.bfloat16},
            "zero_optimization": {"stage": stage, "reduce_bucket_size": 10_000, "allgather_bucket_size": 10_000},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        },
        dist_init_required=False,
    )
    engine.backward(engine(*arguments, ALPHA).total)
    gradients = {name: safe_get_full_grad(parameter).detach().clone() for name, parameter in model.named_parameters()}
    engine.destroy()
    return gradients
