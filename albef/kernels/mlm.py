"""Masked language modelling against hard and soft targets, with neither model's logits whole in memory.

With s and t the logits of student and teacher at a masked position, y its word and a the teacher's weight:

    loss  = (1 - a) (lse(s) - s_y) + a (lse(s) - sum_j softmax(t)_j s_j)      (paper, eq. 7)
    ds    = softmax(s) - (1 - a) one_hot(y) - a softmax(t)

so the forward needs the two normalisers and one weighted sum, which chunks of the vocabulary give one by one, and the
backward computes the logits of a chunk again.
"""

# N masked tokens, V vocabulary, H width, v words of a chunk

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from albef.kernels.dispatch import Impl, use_triton
from albef.precision import at_least_fp32

CHUNK_ELEMENTS = 1 << 21
"""Logits (N x v) computed at a time: 8 MiB in fp32. The base model's vocabulary is one chunk up to 68 masked tokens."""
IGNORED = -100
"""The label of a row that adds no loss and no gradient; so does any other negative one."""


class WordLogits(NamedTuple):
    """The logits of all words at masked positions, in factors: states @ words.T + bias."""

    states: Tensor
    """(N, H) hidden states after the head's transform."""
    words: Tensor
    """(V, H) word embeddings."""
    bias: Tensor
    """(V,)."""

    def whole(self) -> Tensor:
        """(N, V), in the factors' type: for a few rows."""
        return F.linear(self.states, self.words, self.bias)

    def chunk(self, part: slice) -> Tensor:
        """(N, v) for a range of the vocabulary, in the factors' type."""
        return F.linear(self.states, self.words[part], self.bias[part])


def mlm_token_losses(
    student: WordLogits,
    labels: Tensor,
    teacher: WordLogits | None = None,
    alpha: float | Tensor = 0.0,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """The loss of each masked token; differentiable in the student's three factors, once.

    Args:
        student: gradient flows. Its states must be finite, also in ignored rows.
        labels: (N,) int64, the words to predict; a negative one (`IGNORED`) ignores its row.
        teacher: no gradient; None for hard targets.
        alpha: weight of the teacher in [0, 1], a number or a scalar tensor on the device; without a teacher it is 0.
        impl: see `albef.kernels.dispatch.use_triton`.

    Returns: (N,) in nats, 0 in ignored rows, fp32 (float64 for float64 factors). Logits are products in the factors'
    type (Triton: summed in fp32 and not rounded), softmaxes and sums in fp32; the gradient of the word embeddings is a
    sum over all rows in fp32, rounded once.
    """
    wide = torch.float64 if student.states.dtype == torch.float64 else torch.float32
    if not isinstance(alpha, Tensor):
        alpha = torch.full((), alpha, dtype=wide, device=labels.device)
    arguments = (*student, labels, *(teacher or (None, None, None)), alpha.detach().to(wide))
    if use_triton("mlm_token_losses", impl, *student):
        from albef.kernels.mlm_triton import TritonTokenLosses

        losses: Tensor = TritonTokenLosses.apply(*arguments)
        return losses
    losses = _TokenLosses.apply(*arguments)
    return losses


class _TokenLosses(torch.autograd.Function):
    """The function in torch's operations, chunk by chunk: runs on any device, in any type."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        words: Tensor,
        bias: Tensor,
        labels: Tensor,
        teacher_states: Tensor | None,
        teacher_words: Tensor | None,
        teacher_bias: Tensor | None,
        alpha: Tensor,
    ) -> Tensor:
        student = WordLogits(states, words, bias)
        teacher = None
        if teacher_states is not None and teacher_words is not None and teacher_bias is not None:
            teacher = WordLogits(teacher_states, teacher_words, teacher_bias)
        ignored, column = labels < 0, labels.clamp(min=0)
        kept: list[Tensor | None]
        if len(chunks := _chunks(student)) == 1:
            losses, kept = _whole(student, column, teacher, alpha)
            factors = [states, words, bias, None, None, None]
        else:
            losses, kept = _chunked(student, column, teacher, alpha, chunks)
            factors = [states, words, bias, teacher_states, teacher_words, teacher_bias]
        ctx.save_for_backward(*factors, alpha, ignored, column, *kept)
        return losses.masked_fill(ignored, 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *factors, alpha, ignored, column, kept, total, teacher_kept, teacher_total = ctx.saved_tensors
        student, teacher = WordLogits(*factors[:3]), WordLogits(*factors[3:])
        chunks = _chunks(student)
        scale = grad.masked_fill(ignored, 0)[:, None]  # (N, 1)
        hard = (alpha.new_full((), -1) if teacher_kept is None else alpha - 1).expand_as(scale)
        words_grad, bias_grad = torch.empty_like(student.words), torch.empty_like(student.bias)
        states_grad: Tensor | None = None
        for part in chunks:
            # both (N, v) in fp32 at least
            ds = kept.exp() if len(chunks) == 1 else _softmax_of_chunk(student.chunk(part), kept, total)
            if teacher_kept is not None:
                soft = teacher_kept
                if len(chunks) > 1:
                    soft = _softmax_of_chunk(teacher.chunk(part), teacher_kept, teacher_total)
                ds.addcmul_(soft, alpha, value=-1)
            _add_to_label(ds, hard, column, part, len(chunks))
            ds.mul_(scale)
            bias_grad[part] = ds.sum(dim=0)
            low = ds.to(student.states.dtype)
            torch.mm(low.t(), student.states, out=words_grad[part])
            if len(chunks) == 1:
                states_grad = low @ student.words
            else:  # in fp32, because the shares of different chunks cancel
                share = ds @ student.words[part].to(ds.dtype)
                states_grad = share if states_grad is None else states_grad.add_(share)
        assert states_grad is not None
        return states_grad.to(student.states.dtype), words_grad, bias_grad, *[None] * 5


def _whole(
    student: WordLogits, column: Tensor, teacher: WordLogits | None, alpha: Tensor
) -> tuple[Tensor, list[Tensor | None]]:
    """Losses (N,) where all logits are no more than a chunk, and what the backward then need not compute again: the
    student's log-softmax and the teacher's softmax, (N, V) each."""
    logs = at_least_fp32(student.whole()).log_softmax(dim=1)
    target = logs.gather(1, column[:, None]).squeeze(1)
    probabilities = None
    if teacher is not None:
        probabilities = at_least_fp32(teacher.whole()).softmax(dim=1)
        target = target.lerp((probabilities * logs).sum(dim=1), alpha)
    return -target, [logs, None, probabilities, None]


def _chunked(
    student: WordLogits, column: Tensor, teacher: WordLogits | None, alpha: Tensor, chunks: list[slice]
) -> tuple[Tensor, list[Tensor | None]]:
    """Losses (N,) of several chunks, and the largest logit and the sum of exp(logit - largest) of both models, (N,)
    each. Two numbers rather than their log-sum-exp, which would round small differences of large logits."""
    # one of each a chunk, (N,): largest logits and sums of both, the label's s where the chunk has it, the teacher's
    # sum of exp(t - largest) s
    tops, totals, scores, teacher_tops, teacher_totals, means = [], [], [], [], [], []
    for part in chunks:
        s = at_least_fp32(student.chunk(part))  # (N, v)
        tops.append(s.amax(dim=1))
        totals.append((s - tops[-1][:, None]).exp_().sum(dim=1))
        inside, within = _within(column, part)
        scores.append(s.gather(1, within[:, None]).squeeze(1).where(inside, 0))
        if teacher is not None:
            t = at_least_fp32(teacher.chunk(part))
            teacher_tops.append(t.amax(dim=1))
            exps = (t - teacher_tops[-1][:, None]).exp_()
            teacher_totals.append(exps.sum(dim=1))
            means.append(exps.mul_(s).sum(dim=1))
    top, total = _merged(tops, totals)
    target, teacher_top, teacher_total = torch.stack(scores).sum(dim=0), None, None
    if teacher is not None:
        teacher_top, teacher_total, mean = _merged(teacher_tops, teacher_totals, means)
        target = target.lerp(mean / teacher_total, alpha)
    return total.log() + (top - target), [top, total, teacher_top, teacher_total]


def _merged(tops: list[Tensor], *sums: list[Tensor]) -> list[Tensor]:
    """The largest of the chunks' tops, and sums of terms exp(logit - top) with respect to it, (N,) each."""
    of_chunks = torch.stack(tops)
    top = of_chunks.amax(dim=0)
    scale = (of_chunks - top).exp_()
    return [top, *((torch.stack(parts) * scale).sum(dim=0) for parts in sums)]


def _softmax_of_chunk(logits: Tensor, top: Tensor, total: Tensor) -> Tensor:
    """(N, v) probabilities in fp32 at least, of a chunk's logits and the whole rows' largest logit and sum."""
    return torch.sub(logits, top[:, None]).exp_().div_(total[:, None])


def _chunks(logits: WordLogits) -> list[slice]:
    """Ranges of the vocabulary, by shape alone.

    On the meta device one: planning counts no product twice. In a compiled graph one: their number would make the
    number of rows a constant of the graph.
    """
    rows, vocabulary = logits.states.shape[0], logits.words.shape[0]
    if torch.compiler.is_compiling() or rows * vocabulary <= CHUNK_ELEMENTS or logits.states.is_meta:
        return [slice(0, vocabulary)]
    width = max(1, CHUNK_ELEMENTS // rows)
    return [slice(start, min(start + width, vocabulary)) for start in range(0, vocabulary, width)]


def _within(column: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """(N,) bool whether a chunk has the label, and (N,) its column in the chunk, any where the chunk has it not."""
    return (column >= part.start) & (column < part.stop), (column - part.start).clamp(0, part.stop - part.start - 1)


def _add_to_label(ds: Tensor, value: Tensor, column: Tensor, part: slice, num_chunks: int) -> None:
    """Add (N, 1) values to the labels' columns, where the chunk has them."""
    if num_chunks > 1:
        inside, column = _within(column, part)
        value = value.where(inside[:, None], 0)
    ds.scatter_add_(1, column[:, None], value)
