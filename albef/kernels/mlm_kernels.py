"""The Triton kernels of the masked-language-modelling loss; `mlm_triton` launches them."""

# N masked tokens, V vocabulary, H width, S splits, v words of a range

from __future__ import annotations

import triton
import triton.language as tl

from albef.kernels import dispatch

INTERPRETED = tl.constexpr(dispatch.INTERPRETED)
NUM_SUMS = tl.constexpr(6)
"""Of a split and row, in order: largest logit of the student, sum of exp(s - largest), the label's logit; the teacher's
two, and its sum of exp(t - largest) s."""


@triton.jit
def _add_product(left, right, total, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """total + left @ right, in fp32."""
    if INTERPRETED:  # the interpreter would multiply the bits of bf16 numbers as integers
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, total, input_precision=PRECISION)


@triton.jit
def _logits(  # type: ignore[no-untyped-def]
    states,
    words,
    bias,
    row,
    word,
    num_rows,
    num_words,
    width: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(BLOCK_N, BLOCK_V) logits of 64-bit rows and words; 0 beyond the last of each."""
    logits = tl.zeros([BLOCK_N, BLOCK_V], tl.float32)
    for start in range(0, width, BLOCK_H):
        column = start + tl.arange(0, BLOCK_H)
        here = (row < num_rows)[:, None] & (column < width)[None, :]
        state = tl.load(states + row[:, None] * width + column[None, :], here, 0.0)
        there = (word < num_words)[None, :] & (column < width)[:, None]
        embedding = tl.load(words + word[None, :] * width + column[:, None], there, 0.0)
        logits = _add_product(state, embedding, logits, PRECISION)
    return logits + tl.load(bias + word, word < num_words, 0.0).to(tl.float32)[None, :]


@triton.jit
def sums_kernel(  # type: ignore[no-untyped-def]
    states,
    words,
    bias,
    teacher_states,
    teacher_words,
    teacher_bias,
    labels,
    out,
    num_rows,
    num_words,
    split_words,
    width: tl.constexpr,
    TEACHER: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(S, NUM_SUMS, N) sums over each split's words."""
    # 64-bit throughout: V x H and S x N have no bound of 2^31
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1).to(tl.int64)
    label = tl.load(labels + row, row < num_rows, -1)
    top = tl.full([BLOCK_N], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    score = tl.zeros([BLOCK_N], tl.float32)
    teacher_top = tl.full([BLOCK_N], float("-inf"), tl.float32)
    teacher_total = tl.zeros([BLOCK_N], tl.float32)
    mean = tl.zeros([BLOCK_N], tl.float32)
    for start in range(split * split_words, tl.minimum((split + 1) * split_words, num_words), BLOCK_V):
        word = start + tl.arange(0, BLOCK_V).to(tl.int64)
        there = (word < num_words)[None, :]
        s = _logits(states, words, bias, row, word, num_rows, num_words, width, BLOCK_N, BLOCK_V, BLOCK_H, PRECISION)
        score += tl.sum(tl.where(word[None, :] == label[:, None], s, 0.0), 1)
        bounded = tl.where(there, s, float("-inf"))
        higher = tl.maximum(top, tl.max(bounded, 1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(bounded - higher[:, None]), 1)
        top = higher
        if TEACHER:
            t = _logits(
                teacher_states,
                teacher_words,
                teacher_bias,
                row,
                word,
                num_rows,
                num_words,
                width,
                BLOCK_N,
                BLOCK_V,
                BLOCK_H,
                PRECISION,
            )
            t = tl.where(there, t, float("-inf"))
            higher = tl.maximum(teacher_top, tl.max(t, 1))
            weights = tl.exp(t - higher[:, None])
            shrink = tl.exp(teacher_top - higher)
            teacher_total = teacher_total * shrink + tl.sum(weights, 1)
            mean = mean * shrink + tl.sum(weights * s, 1)
            teacher_top = higher
    place = out + split * NUM_SUMS * num_rows + row
    tl.store(place, top, row < num_rows)
    tl.store(place + num_rows, total, row < num_rows)
    tl.store(place + 2 * num_rows, score, row < num_rows)
    if TEACHER:
        tl.store(place + 3 * num_rows, teacher_top, row < num_rows)
        tl.store(place + 4 * num_rows, teacher_total, row < num_rows)
        tl.store(place + 5 * num_rows, mean, row < num_rows)


@triton.jit
def merge_kernel(  # type: ignore[no-untyped-def]
    sums, labels, alpha, out, stats, num_rows, splits, TEACHER: tl.constexpr, BLOCK_N: tl.constexpr
):
    """(N,) losses and (4, N) largest logits and sums, of the splits' sums in their order."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    there = row < num_rows
    top = tl.full([BLOCK_N], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    score = tl.zeros([BLOCK_N], tl.float32)
    teacher_top = tl.full([BLOCK_N], float("-inf"), tl.float32)
    teacher_total = tl.zeros([BLOCK_N], tl.float32)
    mean = tl.zeros([BLOCK_N], tl.float32)
    place = sums + row
    for _ in range(splits):
        part = tl.load(place, there, 0.0)
        higher = tl.maximum(top, part)
        total = total * tl.exp(top - higher) + tl.load(place + num_rows, there, 1.0) * tl.exp(part - higher)
        top = higher
        score += tl.load(place + 2 * num_rows, there, 0.0)
        if TEACHER:
            part = tl.load(place + 3 * num_rows, there, 0.0)
            higher = tl.maximum(teacher_top, part)
            shrink, scale = tl.exp(teacher_top - higher), tl.exp(part - higher)
            teacher_total = teacher_total * shrink + tl.load(place + 4 * num_rows, there, 1.0) * scale
            mean = mean * shrink + tl.load(place + 5 * num_rows, there, 0.0) * scale
            teacher_top = higher
        place += NUM_SUMS * num_rows
    target = score
    if TEACHER:
        target += tl.load(alpha) * (mean / teacher_total - score)
        tl.store(stats + 2 * num_rows + row, teacher_top, there)
        tl.store(stats + 3 * num_rows + row, teacher_total, there)
    tl.store(stats + row, top, there)
    tl.store(stats + num_rows + row, total, there)
    label = tl.load(labels + row, there, -1)
    tl.store(out + row, tl.where(label >= 0, tl.log(total) + (top - target), 0.0), there)


@triton.jit
def logits_gradient_kernel(  # type: ignore[no-untyped-def]
    states,
    words,
    bias,
    teacher_states,
    teacher_words,
    teacher_bias,
    labels,
    alpha,
    stats,
    grad,
    ds,
    num_rows,
    num_words,
    range_start,
    range_words,
    width: tl.constexpr,
    TEACHER: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(N, v) gradient of a range of logits; 0 beyond the last word."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.program_id(1).to(tl.int64) * BLOCK_V + tl.arange(0, BLOCK_V)
    word = range_start + column
    here, there = row < num_rows, word < num_words
    label = tl.load(labels + row, here, -1)
    scale = tl.where(label >= 0, tl.load(grad + row, here, 0.0), 0.0)
    s = _logits(states, words, bias, row, word, num_rows, num_words, width, BLOCK_N, BLOCK_V, BLOCK_H, PRECISION)
    top, total = tl.load(stats + row, here, 0.0), tl.load(stats + num_rows + row, here, 1.0)
    gradient = tl.exp(s - top[:, None]) / total[:, None]
    hard = 1.0
    if TEACHER:
        soft = tl.load(alpha)
        hard = 1.0 - soft
        t = _logits(
            teacher_states,
            teacher_words,
            teacher_bias,
            row,
            word,
            num_rows,
            num_words,
            width,
            BLOCK_N,
            BLOCK_V,
            BLOCK_H,
            PRECISION,
        )
        top, total = tl.load(stats + 2 * num_rows + row, here, 0.0), tl.load(stats + 3 * num_rows + row, here, 1.0)
        gradient -= soft * (tl.exp(t - top[:, None]) / total[:, None])
    gradient = (gradient - tl.where(word[None, :] == label[:, None], hard, 0.0)) * scale[:, None]
    gradient = tl.where(there[None, :], gradient, 0.0)
    place = ds + row[:, None] * range_words + column[None, :]
    tl.store(place, gradient.to(ds.dtype.element_ty), here[:, None] & (column < range_words)[None, :])


@triton.jit
def words_gradient_kernel(  # type: ignore[no-untyped-def]
    ds,
    states,
    words_grad,
    bias_grad,
    num_rows,
    num_words,
    range_start,
    range_words,
    width: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(v, H) gradient of a range of word embeddings and its (v,) of the bias: sums over all rows, rounded once."""
    column = tl.program_id(0).to(tl.int64) * BLOCK_V + tl.arange(0, BLOCK_V)
    part = tl.program_id(1).to(tl.int64) * BLOCK_H + tl.arange(0, BLOCK_H)
    gradient = tl.zeros([BLOCK_V, BLOCK_H], tl.float32)
    of_bias = tl.zeros([BLOCK_V], tl.float32)
    for start in range(0, num_rows, BLOCK_N):
        row = start + tl.arange(0, BLOCK_N).to(tl.int64)
        here = row < num_rows
        place = ds + row[None, :] * range_words + column[:, None]
        of_logits = tl.load(place, here[None, :] & (column < range_words)[:, None], 0.0)  # (BLOCK_V, BLOCK_N)
        state = tl.load(states + row[:, None] * width + part[None, :], here[:, None] & (part < width)[None, :], 0.0)
        gradient = _add_product(of_logits, state, gradient, PRECISION)
        of_bias += tl.sum(of_logits.to(tl.float32), 1)
    word = range_start + column
    there = (word < num_words) & (column < range_words)
    place = words_grad + word[:, None] * width + part[None, :]
    tl.store(place, gradient.to(words_grad.dtype.element_ty), there[:, None] & (part < width)[None, :])
    if tl.program_id(1) == 0:
        tl.store(bias_grad + word, of_bias.to(bias_grad.dtype.element_ty), there)


@triton.jit
def states_gradient_kernel(  # type: ignore[no-untyped-def]
    ds,
    words,
    shares,
    num_rows,
    num_words,
    range_start,
    range_words,
    split_words,
    width: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add the range's part of the states' gradient to (S, N, H) shares, one for each split of the range."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    part = tl.program_id(1).to(tl.int64) * BLOCK_H + tl.arange(0, BLOCK_H)
    split = tl.program_id(2).to(tl.int64)
    here = (row < num_rows)[:, None]
    place = shares + (split * num_rows + row[:, None]) * width + part[None, :]
    mask = here & (part < width)[None, :]
    gradient = tl.load(place, mask, 0.0)
    end = tl.minimum(tl.minimum((split + 1) * split_words, range_words), num_words - range_start)
    for start in range(split * split_words, end, BLOCK_V):
        column = start + tl.arange(0, BLOCK_V).to(tl.int64)
        there = column < end
        of_logits = tl.load(ds + row[:, None] * range_words + column[None, :], here & there[None, :], 0.0)
        embeddings = words + (range_start + column)[:, None] * width + part[None, :]
        embedding = tl.load(embeddings, there[:, None] & (part < width)[None, :], 0.0)
        gradient = _add_product(of_logits, embedding, gradient, PRECISION)
    tl.store(place, gradient, mask)
