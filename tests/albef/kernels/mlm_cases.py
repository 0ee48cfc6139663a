"""Cases for the masked-language-modelling kernel, and its answer written out in float64 with whole matrices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from albef.kernels.mlm import IGNORED, WordLogits

ROUNDINGS = {torch.float64: 16, torch.float32: 8, torch.bfloat16: 1}
"""What a result may be off besides what plain operations of its type are off, in roundings of its largest entry: sums
in another order. In float64 the plain operations are the reference itself."""
TIMES = {torch.float64: 1, torch.float32: 2, torch.bfloat16: 1}
"""How many times the plain operations' error is allowed. In fp32 both errors are the largest of a few hundred random
ones, from logits of hundreds summed in two orders; in bf16 the kernel must not be worse."""


@dataclass(frozen=True)
class Case:
    """Inputs of the kernel."""

    student: WordLogits
    labels: Tensor
    teacher: WordLogits | None
    alpha: float | Tensor
    weights: Tensor
    """(N,) the gradient of the losses."""


def make_case(
    rows: int,
    vocabulary: int,
    width: int,
    *,
    dtype: torch.dtype = torch.float32,
    alpha: float | None = 0.4,
    scale: float = 1.0,
    ignored: bool = False,
    alike: bool = False,
    seed: int = 0,
) -> Case:
    """Random factors, rounded to `dtype`.

    Args:
        alpha: None leaves the teacher out.
        scale: of the logits' standard deviation.
        ignored: every third row, from the first, has no label.
        alike: all rows have the same states and label.
    """
    generator = torch.Generator().manual_seed(seed)

    def factors() -> WordLogits:
        states = torch.randn(rows, width, generator=generator, dtype=torch.float64) * scale
        words = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64) / width**0.5
        bias = torch.randn(vocabulary, generator=generator, dtype=torch.float64)
        if alike:
            states = states[:1].expand(rows, -1)
        return WordLogits(*(factor.to(dtype).clone() for factor in (states, words, bias)))

    labels = torch.randint(0, vocabulary, (rows,), generator=generator)
    labels = labels[:1].repeat(rows) if alike else labels
    labels[-1:] = vocabulary - 1  # in the last tile, which is mostly not a full one
    if ignored:
        labels[::3] = IGNORED
    student = factors()
    weights = torch.rand(rows, generator=generator, dtype=torch.float64) - 0.2
    return Case(student, labels, factors() if alpha is not None else None, alpha or 0.0, weights)


def plain(case: Case, dtype: torch.dtype) -> list[Tensor]:
    """Losses and the gradients of states, words and bias, with whole matrices: products in `dtype`, softmaxes in fp32
    at least, the gradient by autograd. float64 is the reference, the case's own type the error to be expected."""
    wide = torch.promote_types(dtype, torch.float32)
    student = [factor.to(dtype, copy=True).requires_grad_() for factor in case.student]
    log_probs = F.linear(*student).to(wide).log_softmax(dim=1)
    kept = (case.labels >= 0).to(wide)
    losses = -log_probs.gather(1, case.labels.clamp(min=0)[:, None]).squeeze(1)
    if case.teacher is not None:
        teacher = F.linear(*(factor.to(dtype) for factor in case.teacher)).to(wide).softmax(dim=1)
        losses = (1 - case.alpha) * losses - case.alpha * (teacher * log_probs).sum(dim=1)
    losses = losses * kept
    losses.backward(case.weights.to(wide))
    gradients = [factor.grad for factor in student if factor.grad is not None]
    return [losses.detach(), *gradients]


def check_case(case: Case, found: list[Tensor]) -> None:
    """Losses and gradients of the kernel are no further from float64 than plain operations in the case's own type."""
    dtype = case.student.states.dtype
    reference, usual = plain(case, torch.float64), plain(case, dtype)
    for name, ours, right, theirs in zip(("losses", "states", "words", "bias"), found, reference, usual, strict=True):
        assert ours.shape == right.shape, name
        assert ours.dtype == (torch.promote_types(dtype, torch.float32) if name == "losses" else dtype), name
        if not right.numel():
            continue
        error, allowed = (ours.double() - right).abs().max().item(), (theirs.double() - right).abs().max().item()
        allowed *= TIMES[dtype]
        allowed += ROUNDINGS[dtype] * torch.finfo(dtype).eps * right.abs().max().item()
        assert error <= allowed, f"{name}: {error:.3g} from float64, allowed {allowed:.3g}"
