"""The passes over candidates of the contrastive loss in Triton.

A program has BLOCK_B queries and one of several splits of the candidates, so that few queries fill a GPU too. Each
split writes its own partial result, and torch merges them: no atomics, so the same bits every time. How many splits
there are depends on shapes alone.
"""

# B queries, E embedding, Q queue, S splits

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from albef.kernels.opaque import opaque
from albef.kernels.resources import Configuration

PROGRAMS = 264
"""Programs to aim for: two for each of an H100's 132 multiprocessors. A constant, because asking the device for its
number would make the splits, and so the rounding, depend on it."""
PRECISION = "tf32x3"
"""Of products: three TF32 products of a number's upper and lower halves keep 22 of fp32's 24 bits, an error below that
of the sums; one TF32 product would keep 11 bits of scores that reach 1,000, and plain fp32 has no tensor cores."""
# The largest tiles that spill no register on sm_80 and sm_90 (tests/albef/kernels/resources.json). The mean is kept
# transposed, (E, B): as the first operand of its product the candidates are spread over warps, not copied to each.
LSE_TILE = {"BLOCK_B": 64, "BLOCK_N": 64, "BLOCK_E": 32}
LSE_OPTIONS = {"num_warps": 8, "num_stages": 3}
MEAN_TILE = {"BLOCK_B": 32, "BLOCK_N": 32, "BLOCK_E": 32}
MEAN_OPTIONS = {"num_warps": 8, "num_stages": 2}


def _rows_like(queries: Tensor, keys: Tensor, queue: Tensor | None) -> Tensor:
    return queries.new_empty(queries.shape[0])


def _rows_and_means_like(queries: Tensor, keys: Tensor, queue: Tensor | None) -> tuple[Tensor, Tensor]:
    return queries.new_empty(queries.shape[0]), torch.empty_like(queries)


def _means_like(queries: Tensor, keys: Tensor, queue: Tensor | None, lse: Tensor) -> Tensor:
    return torch.empty_like(queries)


@opaque(_rows_like)
def log_sum_exp(queries: Tensor, keys: Tensor, queue: Tensor | None) -> Tensor:
    """(B,) log-sum-exp of the scores of contiguous fp32 queries (B, E) with the candidates."""
    launch = _Launch(queries, keys, queue, LSE_TILE)
    parts = queries.new_empty(launch.splits, launch.num_queries)
    lse_kernel[launch.grid](
        *launch.tensors, parts, *launch.sizes, launch.dim, PRECISION=PRECISION, **LSE_TILE, **LSE_OPTIONS
    )
    return parts.logsumexp(dim=0)


@opaque(_rows_and_means_like)
def attend(queries: Tensor, keys: Tensor, queue: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B,) log-sum-exp of the scores, and the (B, E) mean of the candidates under their softmax."""
    launch = _Launch(queries, keys, queue, MEAN_TILE)
    parts = queries.new_empty(launch.splits, launch.num_queries)
    means = queries.new_empty(launch.splits, launch.num_queries, launch.dim)
    launch.mean(None, parts, means)
    lse = parts.logsumexp(dim=0)
    return lse, means.mul_((parts - lse).exp_().unsqueeze(2)).sum(dim=0)


@opaque(_means_like)
def softmax_mean(queries: Tensor, keys: Tensor, queue: Tensor | None, lse: Tensor) -> Tensor:
    """(B, E) mean of the candidates under the softmax of scores whose (B,) log-sum-exp is known."""
    launch = _Launch(queries, keys, queue, MEAN_TILE)
    means = queries.new_empty(launch.splits, launch.num_queries, launch.dim)
    launch.mean(lse, None, means)
    return means.sum(dim=0)


class _Launch:
    """How the queries and candidates of a call are spread over programs."""

    def __init__(self, queries: Tensor, keys: Tensor, queue: Tensor | None, tile: Mapping[str, int]) -> None:
        self.tensors = [one.contiguous() for one in (queries, keys, keys if queue is None else queue)]
        self.num_queries, self.dim = queries.shape
        num_rows = keys.shape[0] + (0 if queue is None else queue.shape[0])
        blocks = triton.cdiv(self.num_queries, tile["BLOCK_B"])
        tiles = triton.cdiv(num_rows, tile["BLOCK_N"])
        tiles_a_split = triton.cdiv(tiles, max(1, min(tiles, PROGRAMS // blocks)))
        self.splits = triton.cdiv(tiles, tiles_a_split)  # none is empty
        self.grid = (blocks, self.splits)
        self.sizes = (self.num_queries, keys.shape[0], num_rows, tiles_a_split * tile["BLOCK_N"])

    def mean(self, known_lse: Tensor | None, lse_out: Tensor | None, mean_out: Tensor) -> None:
        """Run `mean_kernel`."""
        mean_kernel[self.grid](
            *self.tensors,
            known_lse,
            lse_out,
            mean_out,
            *self.sizes,
            self.dim,
            DIM=max(16, triton.next_power_of_2(self.dim)),
            KNOWN=known_lse is not None,
            PRECISION=PRECISION,
            **MEAN_TILE,
            **MEAN_OPTIONS,
        )


@triton.jit
def _rows(start, offsets, keys, queue, num_keys, num_rows, dim: tl.constexpr):  # type: ignore[no-untyped-def]
    """Pointers to candidates start + offsets, the batch's then the queue's, and which of them there are."""
    index = start + offsets
    # 64-bit: the queue may have more than 2^31 numbers
    in_batch = keys + index.to(tl.int64) * dim
    in_queue = queue + (index - num_keys).to(tl.int64) * dim
    return tl.where(index < num_keys, in_batch, in_queue), index < num_rows


@triton.jit
def lse_kernel(  # type: ignore[no-untyped-def]
    queries,
    keys,
    queue,
    out,
    num_queries,
    num_keys,
    num_rows,
    split_rows,
    dim: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(S, B) log-sum-exp of each split's scores."""
    query = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    split = tl.program_id(1)
    end = tl.minimum((split + 1) * split_rows, num_rows)
    offsets, columns = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_E)
    query_rows = queries + query.to(tl.int64)[:, None] * dim
    top = tl.full([BLOCK_B], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_B], tl.float32)
    for start in range(split * split_rows, end, BLOCK_N):
        rows, there = _rows(start, offsets, keys, queue, num_keys, end, dim)
        scores = tl.zeros([BLOCK_B, BLOCK_N], tl.float32)
        for e in range(0, dim, BLOCK_E):
            column = e + columns
            q = tl.load(query_rows + column[None, :], (query < num_queries)[:, None] & (column < dim)[None, :], 0.0)
            c = tl.load(rows[None, :] + column[:, None], there[None, :] & (column < dim)[:, None], 0.0)
            scores = tl.dot(q, c, scores, input_precision=PRECISION)
        scores = tl.where(there[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(scores - higher[:, None]), 1)
        top = higher
    tl.store(out + split.to(tl.int64) * num_queries + query, top + tl.log(total), query < num_queries)


@triton.jit
def mean_kernel(  # type: ignore[no-untyped-def]
    queries,
    keys,
    queue,
    known_lse,
    lse_out,
    mean_out,
    num_queries,
    num_keys,
    num_rows,
    split_rows,
    dim: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    DIM: tl.constexpr,
    KNOWN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(S, B, E) mean of each split's candidates under its softmax, and its (S, B) log-sum-exp.

    With KNOWN the log-sum-exp of all scores is given, and the splits' sums add up to the mean.
    """
    query = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    split = tl.program_id(1)
    end = tl.minimum((split + 1) * split_rows, num_rows)
    offsets, columns, column = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_E), tl.arange(0, DIM)
    query_rows = queries + query.to(tl.int64)[None, :] * dim
    mean = tl.zeros([DIM, BLOCK_B], tl.float32)
    top = tl.full([BLOCK_B], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_B], tl.float32)
    if KNOWN:
        top = tl.load(known_lse + query, query < num_queries, 0.0)
    for start in range(split * split_rows, end, BLOCK_N):
        rows, there = _rows(start, offsets, keys, queue, num_keys, end, dim)
        scores = tl.zeros([BLOCK_N, BLOCK_B], tl.float32)
        for e in range(0, dim, BLOCK_E):
            part = e + columns
            c = tl.load(rows[:, None] + part[None, :], there[:, None] & (part < dim)[None, :], 0.0)
            q = tl.load(query_rows + part[:, None], (query < num_queries)[None, :] & (part < dim)[:, None], 0.0)
            scores = tl.dot(c, q, scores, input_precision=PRECISION)
        scores = tl.where(there[:, None], scores, float("-inf"))
        if KNOWN:
            weights = tl.exp(scores - top[None, :])
        else:
            higher = tl.maximum(top, tl.max(scores, 0))
            weights = tl.exp(scores - higher[None, :])
            shrink = tl.exp(top - higher)
            total = total * shrink + tl.sum(weights, 0)
            mean = mean * shrink[None, :]
            top = higher
        c = tl.load(rows[None, :] + column[:, None], there[None, :] & (column < dim)[:, None], 0.0)
        mean = tl.dot(c, weights, mean, input_precision=PRECISION)
    row = split.to(tl.int64) * num_queries + query
    if not KNOWN:
        mean = mean / total[None, :]
        tl.store(lse_out + row, top + tl.log(total), query < num_queries)
    here = (query < num_queries)[None, :] & (column < dim)[:, None]
    tl.store(mean_out + row[None, :] * dim + column[:, None], mean, here)


def configurations() -> list[Configuration]:
    """At E = 256, the paper's."""
    pointers = dict.fromkeys(("queries", "keys", "queue", "out", "known_lse", "lse_out", "mean_out"), "*fp32")
    numbers = dict.fromkeys(("num_queries", "num_keys", "num_rows", "split_rows"), "i32")
    lse = {"dim": 256, "PRECISION": PRECISION, **LSE_TILE}
    mean = {"dim": 256, "DIM": 256, "PRECISION": PRECISION, **MEAN_TILE}
    signature = pointers | numbers
    return [
        Configuration(name="itc_lse", kernel=lse_kernel, constants=lse, options=LSE_OPTIONS, signature=signature),
        Configuration(
            name="itc_attend",
            kernel=mean_kernel,
            constants=mean | {"KNOWN": False, "known_lse": None},
            options=MEAN_OPTIONS,
            signature=signature,
        ),
        Configuration(
            name="itc_mean",
            kernel=mean_kernel,
            constants=mean | {"KNOWN": True, "lse_out": None},
            options=MEAN_OPTIONS,
            signature=signature,
        ),
    ]
