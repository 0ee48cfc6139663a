"""The losses against sums written out in float64, and at the edges where the original gives NaN."""

from __future__ import annotations

import math

import pytest
import torch

from albef.kernels.mlm import WordLogits
from albef.objective.losses import (
    class_accuracy,
    class_loss,
    contrastive_logits,
    itm_accuracy,
    itm_loss,
    mlm_loss,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def log_softmax(row: list[float]) -> list[float]:
    top = max(row)
    total = math.log(sum(math.exp(value - top) for value in row)) + top
    return [value - total for value in row]


def test_contrastive_logits_are_dot_products_over_the_temperature() -> None:
    """Column j is candidate j: the batch's first, then the queue's."""
    feat, keys, queue, temperature = random(2, 3), random(2, 3, seed=1), random(4, 3, seed=2), torch.tensor([0.05])
    logits = contrastive_logits(feat, keys, queue, temperature.double())
    candidates = keys.tolist() + queue.tolist()
    for i, row in enumerate(feat.tolist()):
        for j, candidate in enumerate(candidates):
            expected = sum(a * b for a, b in zip(row, candidate, strict=True)) / float(temperature)
            assert logits[i, j].item() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(contrastive_logits(feat, keys, None, temperature.double()), logits[:, :2])


def test_class_loss_mixes_label_and_teacher() -> None:
    """Row by row (1 - alpha) x the label's term + alpha x the teacher's; in fp32 for bf16 logits."""
    logits, teacher, labels = random(4, 3), random(4, 3, seed=1), torch.tensor([0, 2, 1, 1])
    alpha = 0.3
    expected = plain = 0.0
    for row, its_teacher, label in zip(logits.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        ours = log_softmax(row)
        soft = -sum(math.exp(t) * o for t, o in zip(log_softmax(its_teacher), ours, strict=True))
        expected += ((1 - alpha) * -ours[label] + alpha * soft) / 4
        plain -= ours[label] / 4
    weight = torch.tensor(alpha, dtype=torch.float64)
    assert class_loss(logits, labels, teacher, weight).item() == pytest.approx(expected, rel=1e-12)
    assert class_loss(logits, labels).item() == pytest.approx(plain, rel=1e-12)
    low = class_loss(logits.bfloat16(), labels, teacher.bfloat16(), weight)
    assert low.dtype == torch.float32 and low.item() == pytest.approx(expected, abs=0.02)  # 8 bits of each logit
    assert class_accuracy(torch.eye(3), torch.tensor([0, 1, 0])).item() == pytest.approx(2 / 3)


def test_itm_loss_leaves_invalid_rows_out() -> None:
    """The mean runs over valid rows only, also where an invalid row is not finite; none valid gives 0."""
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [math.nan, 1.0], [0.0, 3.0]], dtype=torch.float64)
    labels = torch.tensor([1, 0, 0, 0])
    valid = torch.tensor([True, True, False, True])
    losses = [-log_softmax(logits[i].tolist())[int(labels[i])] for i in (0, 1, 3)]
    assert itm_loss(logits, labels, valid).item() == pytest.approx(sum(losses) / 3, rel=1e-12)
    assert itm_accuracy(logits, labels, valid).item() == pytest.approx(2 / 3)
    assert itm_loss(logits[:2], labels[:2]).item() == pytest.approx(sum(losses[:2]) / 2, rel=1e-12)
    assert itm_accuracy(logits[:2], labels[:2]).item() == 1
    assert itm_loss(logits, labels, torch.zeros(4, dtype=torch.bool)).item() == 0


def factored(logits: torch.Tensor) -> WordLogits:
    """The same logits as products with unit vectors."""
    size = logits.shape[1]
    return WordLogits(logits, torch.eye(size, dtype=logits.dtype), torch.zeros(size, dtype=logits.dtype))


def test_mlm_loss_by_hand() -> None:
    """(1 - alpha) of the hard loss and alpha of the teacher's, a mean over masked tokens, over the vocabulary axis."""
    logits, teacher_logits, labels, alpha = random(4, 6), random(4, 6, seed=1), torch.tensor([5, 0, 2, 2]), 0.3
    teacher = teacher_logits.softmax(dim=1)
    total = 0.0
    for i, row in enumerate(logits.tolist()):
        logs = log_softmax(row)
        soft = -sum(t * v for t, v in zip(teacher[i].tolist(), logs, strict=True))
        total += (1 - alpha) * -logs[int(labels[i])] + alpha * soft
    student, other = factored(logits), factored(teacher_logits)
    assert mlm_loss(student, labels, other, alpha).item() == pytest.approx(total / 4, rel=1e-12)
    assert mlm_loss(student, labels, other, 0.0).item() == pytest.approx(mlm_loss(student, labels).item(), rel=1e-12)


def test_mlm_loss_leaves_rows_without_a_label_out() -> None:
    """Rows that fill a batch to a fixed size change neither the mean nor any gradient; only such rows give 0."""
    logits, teacher, labels = random(4, 6), factored(random(4, 6, seed=1)), torch.tensor([5, 0, 2, 2])
    filled = torch.tensor([5, -100, 0, -100, 2, 2])
    results = []
    for rows, targets in ((logits, labels), (logits[[0, 0, 1, 3, 2, 3]], filled)):
        student = factored(rows.clone().requires_grad_())
        order = [0, 1, 2, 3] if targets is labels else [0, 3, 1, 2, 2, 3]
        loss = mlm_loss(student, targets, teacher._replace(states=teacher.states[order]), 0.3)
        loss.backward()
        assert student.states.grad is not None
        results.append((loss.item(), student.states.grad))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    assert torch.allclose(results[1][1][[0, 2, 4, 5]], results[0][1], atol=1e-15)
    assert not results[1][1][[1, 3]].any()
    nothing = factored(logits.clone().requires_grad_())
    loss = mlm_loss(nothing, torch.full((4,), -100), teacher, 0.3)
    loss.backward()
    assert loss.item() == 0 and nothing.states.grad is not None and not nothing.states.grad.any()


def test_mlm_loss_of_no_masked_token_is_zero() -> None:
    """A small batch may have nothing masked: 0 with a gradient of zeros, where a mean over nothing gives NaN."""
    logits = torch.zeros(0, 6, requires_grad=True)
    loss = mlm_loss(factored(logits), torch.zeros(0, dtype=torch.int64), factored(torch.zeros(0, 6)), 0.4)
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_input_is_computed_in_fp32(dtype: torch.dtype) -> None:
    """The losses of bf16 logits equal those of the same numbers in fp32, and come out in fp32."""
    logits, labels = random(3, 3).to(dtype), torch.tensor([0, 1, 1])
    wide = logits.float()

    def mlm(logits: torch.Tensor) -> tuple[WordLogits, torch.Tensor, WordLogits]:
        return factored(logits), labels, factored(logits.flip(0))

    for low, high in (
        (itm_loss(logits[:, :2], labels), itm_loss(wide[:, :2], labels)),
        (mlm_loss(*mlm(logits), 0.4), mlm_loss(*mlm(wide), 0.4)),
        (contrastive_logits(logits, logits, None, torch.tensor([0.07])),) * 2,
    ):
        assert low.dtype == torch.float32 and torch.equal(low, high)


def test_float64_stays_float64() -> None:
    """Parity to 1e-9 needs it."""
    logits = random(3, 5)
    labels = torch.tensor([0, 1, 1])
    assert contrastive_logits(logits, logits, None, torch.ones(1)).dtype == torch.float64
    assert itm_loss(logits[:, :2], labels).dtype == torch.float64
    assert mlm_loss(factored(logits), labels, factored(logits), 0.4).dtype == torch.float64
