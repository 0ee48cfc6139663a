"""The image-text contrastive loss with soft targets over batch and queue, without a matrix of batch x candidates.

A row's loss is a cross-entropy over the candidates c_j with the scores s_j = q . c_j of the query q:

    loss = sum_j y_j (lse(s) - s_j) = (sum_j y_j) lse(s) - q . (sum_j y_j c_j)

The second form needs the targets y only through the mean of the candidates under them: for the hard part that is the
partner's feature, for the soft part the mean under the teacher's softmax. So each direction is three passes over the
candidates: log-sum-exp of the student's scores, log-sum-exp and mean of the teacher's, and in backward the mean under
the student's softmax, which is the gradient of its log-sum-exp. Scores live in tiles; backward computes them again.
"""

# B batch, E embedding, Q queue, N = B + Q candidates

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from albef.kernels.dispatch import Impl, use_triton
from albef.precision import at_least_fp32

CHUNK_ELEMENTS = 1 << 21
"""Scores of the plain version that exist at a time: 8 MiB, and as much again inside `logsumexp`. At a micro-batch of 4
both modalities' 65,540 candidates are one chunk each."""
MAX_EMBED_DIM = 256
"""Of the Triton kernels, which keep the mean of the candidates in registers."""


class ItcLoss(NamedTuple):
    """One direction's loss."""

    rows: Tensor
    """(B,) in nats, fp32 at least."""
    teacher_lse: Tensor | None
    """(B,) log-sum-exp of the teacher's scores, no gradient: exp(score - it) is a candidate's soft target."""


def itc_loss(
    feat: Tensor,
    keys: Tensor,
    queue: Tensor | None,
    temperature: Tensor,
    *,
    teacher: Tensor | None = None,
    alpha: Tensor | None = None,
    ids: tuple[Tensor, Tensor | None] | None = None,
    impl: Impl = "auto",
) -> ItcLoss:
    """Image-text contrastive loss of one direction, row by row (paper, eq. 2; with a teacher eq. 6).

    Feature tensors of any type are computed in fp32, float64 ones in float64. The gradient reaches `feat` and
    `temperature`. Nothing waits for the device.

    Args:
        feat: (B, E) the student's features, L2-normalised.
        keys: (B, E) the teacher's of the other modality; row b is the partner of feat's row b.
        queue: (Q, E) earlier ones, or None.
        temperature: (1,), within its bounds.
        teacher: (B, E) the teacher's features of feat's modality, for soft targets; None for hard ones.
        alpha: 0-d float64, weight of the soft targets in [0, 1]; needed with `teacher`.
        ids: (B,) numbers of the pairs' images, and the (Q,) of the queue's: candidates of the same number are equally
            positive, as the original trains retrieval. None makes the partner the only positive.
        impl: see `albef.kernels`.

    Returns: the loss of each row; the caller takes the mean.

    Raises:
        RuntimeError: `impl` is "triton" and cannot run.
    """
    feat = at_least_fp32(feat)
    keys = keys.detach().to(feat.dtype)
    queue = None if queue is None else queue.to(feat.dtype)
    # dividing the queries instead of the scores: (B, E) numbers instead of (B, N), and autograd finds the temperature
    queries = feat / temperature
    soft = None if teacher is None else teacher.to(feat.dtype) / temperature.detach()
    unsuited = f"the features have {feat.shape[1]} numbers, more than {MAX_EMBED_DIM}"
    triton = use_triton("itc", impl, feat, unsuited=unsuited if feat.shape[1] > MAX_EMBED_DIM else None)
    lse, teacher_lse, teacher_mean = _LogSumExp.apply(queries, soft, keys, queue, triton)

    target, count, weight = keys, None, None  # weight: of a positive, fp32 as all of the original's hard targets
    if ids is not None:
        target, count = _sum_of_positives(keys, queue, *ids)
        weight = (1 / count).float()
    if teacher is not None:
        assert alpha is not None, "soft targets need a weight"
        hard = (1 - alpha).float()
        weight = hard if weight is None else weight * hard
    if weight is not None:
        target = target * weight.view(-1, 1)
        total = weight if count is None else weight * count  # sum_j y_j: rounding makes it not quite 1
        if alpha is not None and teacher_mean is not None:
            target = torch.addcmul(target, teacher_mean, alpha)  # sum_j y_j c_j
            total = total + alpha
        lse = lse * total
    return ItcLoss(lse - (queries * target).sum(dim=1), teacher_lse)


class _LogSumExp(torch.autograd.Function):
    """(B,) log-sum-exp of the queries' scores, and the teacher's with its mean of the candidates, without gradient."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, teacher: Tensor | None, keys: Tensor, queue: Tensor | None, triton: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if triton:
            from albef.kernels import itc_triton

            lse = itc_triton.log_sum_exp(queries, keys, queue)
            teacher_lse, mean = (None, None) if teacher is None else itc_triton.attend(teacher, keys, queue)
        else:
            lse, teacher_lse, mean = _forward(queries, teacher, keys, queue)
        ctx.save_for_backward(queries, keys, queue, lse)
        ctx.triton = triton
        ctx.mark_non_differentiable(*(one for one in (teacher_lse, mean) if one is not None))
        return lse, teacher_lse, mean

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, None, None, None, None]:
        queries, keys, queue, lse = ctx.saved_tensors
        if ctx.triton:
            from albef.kernels import itc_triton

            mean = itc_triton.softmax_mean(queries, keys, queue, lse)
        else:
            mean = _softmax_mean(queries, keys, queue, lse)
        return mean * grad.unsqueeze(1), None, None, None, None


Rows = list[Tensor]
"""Candidates that are not in one tensor: (n, E) each."""


def _forward(
    queries: Tensor, teacher: Tensor | None, keys: Tensor, queue: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Student's and teacher's scores of a chunk at once; the teacher's mean is rescaled as its log-sum-exp grows."""
    size = queries.shape[0]
    both = queries if teacher is None else torch.cat([queries, teacher])
    lse = mean = None
    for rows in _chunks(keys, queue, both.shape[0]):
        scores = _scores(both, rows)  # (2B, n)
        new = scores.logsumexp(dim=1)
        if lse is not None:
            new = torch.logaddexp(lse, new)
        if teacher is not None:
            weights = scores[size:].sub_(new[size:, None]).exp_()
            if mean is not None and lse is not None:
                mean = mean * (lse - new)[size:, None].exp()
            mean = _weighted_sum(weights, rows, mean)
        lse = new
    assert lse is not None
    if teacher is None:
        return lse, None, None
    return lse[:size], lse[size:], mean


def _softmax_mean(queries: Tensor, keys: Tensor, queue: Tensor | None, lse: Tensor) -> Tensor:
    """(B, E) mean of the candidates under the softmax whose log-sum-exp is known."""
    mean = None
    for rows in _chunks(keys, queue, queries.shape[0]):
        mean = _weighted_sum(_scores(queries, rows).sub_(lse[:, None]).exp_(), rows, mean)
    assert mean is not None
    return mean


def _sum_of_positives(
    keys: Tensor, queue: Tensor | None, ids: Tensor, queue_ids: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(B, E) sum of the candidates that have the row's number, and how many there are, (B,)."""
    total, count = None, None
    size = keys.shape[0]
    numbers = ids if queue_ids is None else torch.cat([ids, queue_ids])
    start = 0
    for rows in _chunks(keys, queue, size):
        stop = start + sum(len(part) for part in rows)
        same = (ids[:, None] == numbers[start:stop]).to(keys.dtype)
        total = _weighted_sum(same, rows, total)
        count = same.sum(dim=1) if count is None else count + same.sum(dim=1)
        start = stop
    assert total is not None and count is not None
    return total, count


def _chunks(keys: Tensor, queue: Tensor | None, num_queries: int) -> Iterator[Rows]:
    """The candidates in an order that depends on shapes alone: the batch's with as much of the queue as fits."""
    width = max(1, CHUNK_ELEMENTS // max(1, num_queries))
    if queue is None or keys.shape[0] >= width:
        yield from ([part] for part in keys.split(width))
        first = 0
    else:
        first = min(width - keys.shape[0], queue.shape[0])
        yield [keys, queue[:first]] if first else [keys]
    if queue is not None and first < queue.shape[0]:
        yield from ([part] for part in queue[first:].split(width))


def _scores(queries: Tensor, rows: Rows) -> Tensor:
    """(B, n)."""
    parts = [queries @ part.T for part in rows]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _weighted_sum(weights: Tensor, rows: Rows, before: Tensor | None) -> Tensor:
    """(B, E) `before` and the candidates times their (B, n) weights."""
    for part, its in zip(rows, weights.split([len(part) for part in rows], dim=1), strict=True):
        before = its @ part if before is None else torch.addmm(before, its, part)
    assert before is not None
    return before
