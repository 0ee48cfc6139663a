"""The plain step of `benchmarks.baseline` and ours are the same method: equal numbers from equal weights."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from albef.config import AlbefConfig, ObjectiveConfig
from albef.inputs.batch import PretrainBatch
from albef.model import AlbefForPretraining
from albef.momentum import MomentumTeacher
from albef.objective.masking import mask_tokens
from albef.objective.queue import FeatureQueue
from benchmarks.baseline import BaselineStep, draw
from pipeline.config.sections import OptimConfig
from pipeline.engine.optim import build_optimizer, split_names
from tests.support.small_model import small_config

SIZE, LENGTH, QUEUE, STEPS, ALPHA = 4, 9, 10, 3, 0.4
OPTIM = OptimConfig(lr=1e-3, weight_decay=0.02, eps=1e-4)
"""With AdamW's usual eps, a gradient that is zero but for rounding (a key's bias) moves its weight as far as any."""
OBJECTIVE = ObjectiveConfig(queue_size=QUEUE, momentum=0.9)
TOLERANCE, ROUNDING = 2e-5, 1e-7
"""fp32 with the sums in another order: the largest difference, as a share of the tensor's largest value, and above what
is left where a tensor is zero but for rounding."""


def made_batch(config: AlbefConfig, seed: int) -> PretrainBatch:
    """Noise, with texts of several lengths."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(1_000, 30_000, (SIZE, LENGTH), generator=generator)
    input_ids[:, 0] = config.cls_token_id
    mask = (torch.arange(LENGTH) < torch.tensor([[9], [4], [6], [5]])).long()
    masked = mask_tokens(input_ids * mask, config=config, probability=0.3, generator=generator)
    return PretrainBatch(
        image=torch.randn(SIZE, 3, config.image_size, config.image_size, generator=generator),
        input_ids=input_ids * mask,
        attention_mask=mask,
        mlm_input_ids=masked.mlm_input_ids,
        mlm_positions=masked.mlm_positions,
        mlm_labels=masked.mlm_labels,
        negative_draws=torch.rand(2, SIZE, dtype=torch.float64, generator=generator),
    )


def same(ours: Mapping[str, Tensor], plain: Mapping[str, Tensor], what: str) -> None:
    """The same names, and values within the tolerance."""
    assert ours.keys() == plain.keys()
    for name, tensor in ours.items():
        error, most = float((tensor - plain[name]).abs().max()), float(plain[name].abs().max())
        assert error <= TOLERANCE * most + ROUNDING, f"{what} {name}: {error:.1e} apart, the largest is {most:.1e}"


def test_three_steps_of_both_give_the_same_numbers() -> None:
    """Losses, gradients, weights, teacher and queue (it wraps); dropout is off and the negatives are given."""
    config = small_config(hidden_dropout=0.0, attention_dropout=0.0)
    torch.manual_seed(0)
    student = AlbefForPretraining(config, OBJECTIVE).train()
    teacher = MomentumTeacher(student, device="cpu")
    queue = FeatureQueue(QUEUE, config.embed_dim, seed=1)
    optimizer = build_optimizer(student, OPTIM, device=torch.device("cpu"))
    plain = BaselineStep(
        config,
        OBJECTIVE,
        student.state_dict(),
        torch.stack([queue.image, queue.text]),
        lr=OPTIM.lr,
        weight_decay=OPTIM.weight_decay,
        eps=OPTIM.eps,
        decayed=set(split_names(student.named_parameters(), OPTIM.decay_groups)[1]),
    )
    for step in range(STEPS):
        batch = made_batch(config, seed=step)
        negatives = torch.tensor([1, 2, 3, 0]), torch.tensor([2, 0, 1, 2])
        losses = plain(batch, alpha=ALPHA, negatives=negatives)

        optimizer.zero_grad()
        targets = teacher.targets(batch)
        output = student(batch, targets, queue, torch.tensor(ALPHA, dtype=torch.float64), negative_indices=negatives)
        output.total.backward()
        optimizer.step()
        queue.gather(targets.image_feat, targets.text_feat)
        queue.enqueue()
        teacher.update(student)

        for name in ("itc", "itm", "mlm"):
            torch.testing.assert_close(getattr(output, name).detach(), getattr(losses, name), rtol=1e-5, atol=1e-6)
        gradients, plain_gradients = (
            {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
            for model in (student, plain.student)
        )
        assert len(gradients) == len(list(student.parameters()))
        same(gradients, plain_gradients, f"step {step}: gradient of")
    same(student.state_dict(), plain.student.state_dict(), "weight")
    same(teacher.state_dict(), plain.teacher.state_dict(), "teacher's")
    assert queue.pointer == plain.pointer == STEPS * SIZE % QUEUE
    same({"image": queue.image, "text": queue.text}, {"image": plain.image_queue, "text": plain.text_queue}, "queue")


def test_negatives_are_drawn_from_the_softmax_without_the_partner() -> None:
    """Shares of 2,000 draws for a row of four, within five standard deviations; the partner, the likeliest, never."""
    torch.manual_seed(0)
    row = torch.tensor([5.0, 0.0, 1.0, 2.0])
    drawn = torch.stack([draw(torch.stack([row, row, row, row]))[0] for _ in range(2_000)])
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    expected = torch.cat([torch.zeros(1), row[1:].softmax(0)])
    assert (shares - expected).abs().max() < 5 * (0.25 / len(drawn)) ** 0.5 and shares[0] == 0
    assert row[0] == 5.0  # the similarities themselves stay


def test_the_baseline_is_the_whole_objective() -> None:
    """A loss that is switched off would be a comparison of unequal work."""
    config = small_config()
    weights = AlbefForPretraining(config).state_dict()
    with pytest.raises(ValueError, match="mlm is off"):
        BaselineStep(
            config, ObjectiveConfig(mlm=False), weights, torch.zeros(2, 4, 8), lr=1.0, weight_decay=0.0, decayed=set()
        )
