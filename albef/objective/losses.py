"""Similarities, and the losses on pairs and words, as pure functions, in nats: fp32 or float64, inputs of any type."""

# B batch, R rows, C classes, E embedding, Q queue, N masked tokens, V vocabulary

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from albef.kernels.dispatch import Impl
from albef.kernels.mlm import WordLogits, mlm_token_losses
from albef.precision import at_least_fp32


def contrastive_logits(feat: Tensor, keys: Tensor, queue: Tensor | None, temperature: Tensor) -> Tensor:
    """Similarities with the candidates: this batch's, then the queue's. The loss over them is `albef.kernels.itc`.

    Args:
        feat: (B, E) L2-normalised features of the queries.
        keys: (B, E) L2-normalised teacher features of the other modality; row b is the partner of feat's row b.
        queue: (Q, E) earlier ones, or None.
        temperature: (1,), within its bounds.

    Returns: (B, B+Q).
    """
    # bf16 would leave 8 bits of a cosine that the temperature multiplies by 14 and more
    feat = at_least_fp32(feat)
    logits = feat @ keys.to(feat.dtype).T
    if queue is not None:  # concatenating logits moves fewer bytes than concatenating keys
        logits = torch.cat([logits, feat @ queue.to(feat.dtype).T], dim=1)
    return logits / temperature


def itm_loss(logits: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
    """Image-text matching loss (paper, eq. 4): cross-entropy, class 1 = match.

    Args:
        logits: (R, 2).
        labels: (R,) int64, 0 or 1.
        valid: (R,) bool, False for rows to leave out; None counts all.

    Returns: scalar, mean over the valid rows; 0 if there are none.
    """
    losses = F.cross_entropy(at_least_fp32(logits), labels, reduction="none")  # (R,)
    if valid is None:
        return losses.mean()
    return losses.where(valid, 0).sum() / valid.sum().clamp(min=1)


@torch.no_grad()
def itm_accuracy(logits: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
    """Share of the valid rows whose larger logit is the label's: scalar in [0, 1], arguments as in `itm_loss`."""
    correct = logits.argmax(dim=1) == labels
    if valid is None:
        return correct.to(logits.dtype).mean()
    return (correct & valid).sum() / valid.sum().clamp(min=1)


def class_loss(logits: Tensor, labels: Tensor, teacher: Tensor | None = None, alpha: Tensor | None = None) -> Tensor:
    """Cross-entropy of a head of C classes, with a teacher's soft targets mixed in by alpha (paper, section 4).

    Args:
        logits: (R, C).
        labels: (R,) int64.
        teacher: (R, C) the teacher's logits, or None for hard targets.
        alpha: 0-d float64, weight of the soft targets in [0, 1]; needed with `teacher`.

    Returns: scalar, mean over the rows.
    """
    log_probabilities = at_least_fp32(logits).log_softmax(dim=1)
    losses = F.nll_loss(log_probabilities, labels, reduction="none")  # (R,)
    if teacher is not None:
        assert alpha is not None, "soft targets need a weight"
        soft = -(at_least_fp32(teacher).softmax(dim=1) * log_probabilities).sum(dim=1)
        losses = (1 - alpha) * losses + alpha * soft
    return losses.mean()


@torch.no_grad()
def class_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the rows whose largest logit is the label's: scalar in [0, 1], fp32 at least."""
    return (logits.argmax(dim=1) == labels).to(at_least_fp32(logits).dtype).mean()


def mlm_loss(
    student: WordLogits,
    labels: Tensor,
    teacher: WordLogits | None = None,
    alpha: float | Tensor = 0.0,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """Masked language modelling loss (paper, eq. 3; with a teacher eq. 7).

    Args:
        student: logits (N, V) at the masked positions, in factors.
        labels: (N,) int64, the original ids there; a negative one marks a row that fills a batch to a fixed N.
        teacher: the teacher's logits there, in factors, or None for hard targets.
        alpha: weight of the teacher, in [0, 1].
        impl: see `albef.kernels`.

    Returns: scalar, mean over the masked tokens of this batch; 0, with a gradient of zeros, when there are none (the
    original gives NaN there).
    """
    losses = mlm_token_losses(student, labels, teacher, alpha, impl=impl)  # (N,)
    return losses.sum() / (labels >= 0).sum().clamp(min=1)
