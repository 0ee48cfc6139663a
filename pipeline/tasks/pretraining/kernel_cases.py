"""What `bench kernels` measures: each function of `albef/kernels` beside the plain formula, at a recipe's sizes.

A new kernel is a function here that makes its case, and a line in `CASES`.
"""

# B batch, E embedding, Q queue

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from albef.kernels.dispatch import Impl
from albef.kernels.itc import itc_loss
from albef.kernels.mlm import WordLogits, mlm_token_losses
from pipeline.config.run_config import PretrainingRun
from pipeline.tasks.pretraining.sketch import noise

IMPLEMENTATIONS: tuple[Impl, ...] = ("torch", "triton")


@dataclass(frozen=True, kw_only=True)
class KernelCase:
    """One function on one set of inputs."""

    sizes: Mapping[str, int]
    inputs: Sequence[Tensor]
    """Those with a gradient."""
    run: Mapping[str, Callable[[], Tensor]]
    """By implementation, `plain` first: computes a scalar whose gradient reaches `inputs`."""


def itc(run: PretrainingRun, device: torch.device, dtype: torch.dtype) -> KernelCase:
    """Both directions of the contrastive loss. Features are fp32 in training, also of bf16 weights."""
    size, rows, dim = run.batch.micro_batch_size, run.objective.queue_size, run.model.embed_dim
    image, text, image_keys, text_keys = (unit_rows(size, dim, device) for _ in range(4))
    queues = unit_rows(rows, dim, device), unit_rows(rows, dim, device)
    temperature = torch.full((1,), run.model.temperature, device=device, requires_grad=True)
    alpha = torch.tensor(run.objective.alpha, dtype=torch.float64, device=device)
    image.requires_grad_()
    text.requires_grad_()

    def plain_direction(feat: Tensor, keys: Tensor, queue: Tensor, teacher: Tensor) -> Tensor:
        candidates = torch.cat([keys, queue])  # (B+Q, E)
        targets = alpha.float() * F.softmax(teacher @ candidates.T / temperature.detach(), dim=1)
        targets.diagonal().add_(1 - alpha.float())
        return -(F.log_softmax(feat @ candidates.T / temperature, dim=1) * targets).sum(dim=1).mean()

    def plain() -> Tensor:
        i2t = plain_direction(image, text_keys, queues[1], image_keys)
        return (i2t + plain_direction(text, image_keys, queues[0], text_keys)) / 2

    def fused(impl: Impl) -> Tensor:
        direction = partial(itc_loss, temperature=temperature, alpha=alpha, impl=impl)
        i2t = direction(image, text_keys, queues[1], teacher=image_keys).rows.mean()
        return (i2t + direction(text, image_keys, queues[0], teacher=text_keys).rows.mean()) / 2

    return KernelCase(
        sizes={"batch": size, "queue": rows, "embed_dim": dim},
        inputs=[image, text, temperature],
        run={"plain": plain} | {impl: partial(fused, impl) for impl in IMPLEMENTATIONS},
    )


def mlm(run: PretrainingRun, device: torch.device, dtype: torch.dtype) -> KernelCase:
    """The masked tokens of a lane: vocabulary projections of student and teacher, hard and soft targets."""
    labels = noise(run, run.batch.micro_batch_size).mlm_labels.to(device)
    number, words, width = len(labels), run.model.vocab_size, run.model.text_width

    def factors() -> list[Tensor]:
        shapes, scales = [(number, width), (words, width), (words,)], (1.0, 0.02, 0.02)
        tensors = [torch.randn(shape, device=device) * scale for shape, scale in zip(shapes, scales, strict=True)]
        return [tensor.to(dtype) for tensor in tensors]

    student, teacher, alpha = [tensor.requires_grad_() for tensor in factors()], factors(), run.objective.alpha

    def plain() -> Tensor:
        log_probs = F.linear(*student).float().log_softmax(dim=1)  # (N, V)
        soft = (log_probs * F.linear(*teacher).float().softmax(dim=1)).sum(dim=1)
        return ((1 - alpha) * F.nll_loss(log_probs, labels, reduction="none") - alpha * soft).mean()

    def fused(impl: Impl) -> Tensor:
        return mlm_token_losses(WordLogits(*student), labels, WordLogits(*teacher), alpha, impl=impl).mean()

    return KernelCase(
        sizes={"masked_tokens": number, "vocabulary": words, "width": width},
        inputs=student,
        run={"plain": plain} | {impl: partial(fused, impl) for impl in IMPLEMENTATIONS},
    )


def unit_rows(count: int, width: int, device: torch.device) -> Tensor:
    """(count, width) fp32, L2-normalised."""
    return F.normalize(torch.randn(count, width, device=device), dim=1)


CASES: Mapping[str, Callable[[PretrainingRun, torch.device, torch.dtype], KernelCase]] = {"itc": itc, "mlm": mlm}
