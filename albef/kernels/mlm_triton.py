"""The passes over the vocabulary of the masked-language-modelling loss in Triton.

Forward: a program has BLOCK_N rows and one of several splits of the vocabulary; each split writes its own sums, which
another kernel merges. Backward: the gradient of a range of logits is written in the factors' type, for all rows, and
two products of it are taken: with the states for the word embeddings (a sum over rows) and with the word embeddings
for the states (a sum over words, in splits that torch adds). No atomics, so the same bits every time; ranges and
splits depend on shapes alone. Sums are in fp32.
"""

# N masked tokens, V vocabulary, H width, S splits, v words of a range

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from albef.kernels.mlm_kernels import (
    NUM_SUMS,
    logits_gradient_kernel,
    merge_kernel,
    states_gradient_kernel,
    sums_kernel,
    words_gradient_kernel,
)
from albef.kernels.opaque import opaque
from albef.kernels.resources import Configuration

PROGRAMS = 264
"""Programs to aim for: two for each of an H100's 132 multiprocessors. A constant, because asking the device for its
number would make the splits, and so the rounding, depend on it."""
RANGE_ELEMENTS = 1 << 24
"""Logits (N x v) whose gradient is in memory at a time: 32 MiB in bf16. The base model's vocabulary is one range up to
549 masked tokens."""
PRECISION = "ieee"
"""Of products of fp32 numbers, as torch's default: each in fp32. bf16 products are exact anyway."""
# The largest tiles that spill no register on sm_80 and sm_90 (tests/albef/kernels/resources.json).
TILES = {
    torch.bfloat16: {"BLOCK_N": 64, "BLOCK_V": 128, "BLOCK_H": 64},
    torch.float16: {"BLOCK_N": 64, "BLOCK_V": 128, "BLOCK_H": 64},
    torch.float32: {"BLOCK_N": 32, "BLOCK_V": 64, "BLOCK_H": 32},
}
OPTIONS = {"num_warps": 8, "num_stages": 3}


class TritonTokenLosses(torch.autograd.Function):
    """`albef.kernels.mlm.mlm_token_losses` of the factors of student and teacher, the latter None without one."""

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
        student = [states.contiguous(), words.contiguous(), bias.contiguous()]
        teacher: list[Tensor] = []
        if teacher_states is not None and teacher_words is not None and teacher_bias is not None:
            teacher = [teacher_states.contiguous(), teacher_words.contiguous(), teacher_bias.contiguous()]
        out, stats = losses(student, labels, teacher, alpha)
        ctx.save_for_backward(*student, *(teacher or (None,) * 3), labels, alpha, stats)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *factors, labels, alpha, stats = ctx.saved_tensors
        student, teacher = factors[:3], factors[3:] if factors[3] is not None else []
        return *gradients(student, labels, teacher, alpha, stats, grad.contiguous()), *[None] * 5


def _losses_like(student: list[Tensor], labels: Tensor, teacher: list[Tensor], alpha: Tensor) -> tuple[Tensor, Tensor]:
    states = student[0]
    num_rows = states.shape[0]
    return states.new_empty(num_rows, dtype=torch.float32), states.new_empty(4, num_rows, dtype=torch.float32)


@opaque(_losses_like)
def losses(student: list[Tensor], labels: Tensor, teacher: list[Tensor], alpha: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) losses, and (4, N) what the backward needs: largest logit and sum of student and teacher.

    Args:
        student: contiguous (N, H) states, (V, H) words and (V,) bias of one type.
        labels: (N,) int64, negative where a row is ignored.
        teacher: the same of the teacher, or an empty list.
        alpha: scalar, fp32.
    """
    states, words, _ = student
    (num_rows, width), num_words, tile = states.shape, words.shape[0], TILES[states.dtype]
    out = states.new_empty(num_rows, dtype=torch.float32)
    stats = states.new_empty(4, num_rows, dtype=torch.float32)
    if num_rows == 0:
        return out, stats
    blocks, tiles = triton.cdiv(num_rows, tile["BLOCK_N"]), triton.cdiv(num_words, tile["BLOCK_V"])
    tiles_a_split = triton.cdiv(tiles, max(1, min(tiles, PROGRAMS // blocks)))
    splits = triton.cdiv(tiles, tiles_a_split)  # none is empty
    sums = states.new_empty(splits, NUM_SUMS.value, num_rows, dtype=torch.float32)
    with_teacher = bool(teacher)
    sums_kernel[(blocks, splits)](
        *student,
        *(teacher or student),
        labels,
        sums,
        num_rows,
        num_words,
        tiles_a_split * tile["BLOCK_V"],
        width,
        TEACHER=with_teacher,
        PRECISION=PRECISION,
        **tile,
        **OPTIONS,
    )
    merge_kernel[(blocks,)](
        sums, labels, alpha, out, stats, num_rows, splits, TEACHER=with_teacher, BLOCK_N=tile["BLOCK_N"], num_warps=2
    )
    return out, stats


def _gradients_like(
    student: list[Tensor], labels: Tensor, teacher: list[Tensor], alpha: Tensor, stats: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    states, words, bias = student
    return torch.empty_like(states), torch.empty_like(words), torch.empty_like(bias)


@opaque(_gradients_like)
def gradients(
    student: list[Tensor], labels: Tensor, teacher: list[Tensor], alpha: Tensor, stats: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the student's states, words and bias, in their type.

    Args:
        stats: from `losses`.
        grad: (N,) of the losses, fp32.
        student, labels, teacher, alpha: as for `losses`.
    """
    states, words, bias = student
    (num_rows, width), num_words, tile = states.shape, words.shape[0], TILES[states.dtype]
    if num_rows == 0:
        return torch.zeros_like(states), torch.zeros_like(words), torch.zeros_like(bias)
    blocks, width_blocks = triton.cdiv(num_rows, tile["BLOCK_N"]), triton.cdiv(width, tile["BLOCK_H"])
    step = max(1, RANGE_ELEMENTS // num_rows // tile["BLOCK_V"]) * tile["BLOCK_V"]
    step = min(step, triton.cdiv(num_words, tile["BLOCK_V"]) * tile["BLOCK_V"])
    ds = states.new_empty(num_rows, step)
    range_tiles = step // tile["BLOCK_V"]
    tiles_a_split = triton.cdiv(range_tiles, max(1, min(range_tiles, PROGRAMS // (blocks * width_blocks))))
    splits = triton.cdiv(range_tiles, tiles_a_split)
    shares = states.new_zeros(splits, num_rows, width, dtype=torch.float32)
    words_grad, bias_grad = torch.empty_like(words), torch.empty_like(bias)
    for start in range(0, num_words, step):
        tiles = triton.cdiv(min(step, num_words - start), tile["BLOCK_V"])
        logits_gradient_kernel[(blocks, tiles)](
            *student,
            *(teacher or student),
            labels,
            alpha,
            stats,
            grad,
            ds,
            num_rows,
            num_words,
            start,
            step,
            width,
            TEACHER=bool(teacher),
            PRECISION=PRECISION,
            **tile,
            **OPTIONS,
        )
        words_gradient_kernel[(tiles, width_blocks)](
            ds,
            states,
            words_grad,
            bias_grad,
            num_rows,
            num_words,
            start,
            step,
            width,
            PRECISION=PRECISION,
            **tile,
            **OPTIONS,
        )
        states_gradient_kernel[(blocks, width_blocks, splits)](
            ds,
            words,
            shares,
            num_rows,
            num_words,
            start,
            step,
            tiles_a_split * tile["BLOCK_V"],
            width,
            PRECISION=PRECISION,
            **tile,
            **OPTIONS,
        )
    return shares.sum(dim=0).to(states.dtype), words_grad, bias_grad


def configurations() -> list[Configuration]:
    """At H = 768, the base model's, in bf16 and fp32."""
    return [one for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "fp32")) for one in _of_type(dtype, name)]


def _of_type(dtype: torch.dtype, name: str) -> list[Configuration]:
    typed = ("states", "words", "bias", "teacher_states", "teacher_words", "teacher_bias", "ds", "words_grad")
    signature: dict[str, str] = dict.fromkeys((*typed, "bias_grad"), f"*{name}")
    signature |= dict.fromkeys(("alpha", "stats", "grad", "shares", "sums", "out"), "*fp32") | {"labels": "*i64"}
    numbers = ("num_rows", "num_words", "range_start", "range_words", "split_words", "splits")
    signature |= dict.fromkeys(numbers, "i32")
    tile: dict[str, Any] = {"width": 768, "PRECISION": PRECISION, **TILES[dtype]}
    launched: list[tuple[str, Any, dict[str, Any]]] = [
        ("mlm_sums", sums_kernel, tile | {"TEACHER": True}),
        ("mlm_logits_gradient", logits_gradient_kernel, tile | {"TEACHER": True}),
        ("mlm_words_gradient", words_gradient_kernel, tile),
        ("mlm_states_gradient", states_gradient_kernel, tile),
    ]
    found = [
        Configuration(
            name=f"{kernel_name}_{name}",
            kernel=kernel,
            signature=signature,
            constants=constants,
            divisible=("range_words", "range_start", "split_words"),
            options=OPTIONS,
        )
        for kernel_name, kernel, constants in launched
    ]
    if dtype == torch.float32:
        constants = {"TEACHER": True, "BLOCK_N": TILES[dtype]["BLOCK_N"]}
        found.append(
            Configuration(
                name="mlm_merge",
                kernel=merge_kernel,
                signature=signature,
                constants=constants,
                options={"num_warps": 2},
            )
        )
    return found
