"""The building blocks of BERT: masks, dropout, attention with both."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from albef.config import AlbefConfig
from albef.network.attention import Attention, token_mask
from albef.network.layers import Dropout

# R rows, L tokens, H width


@pytest.mark.parametrize("length", [1, 7, 8, 25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_is_additive_and_its_rows_are_aligned(length: int, dtype: torch.dtype) -> None:
    """0 at tokens and -inf at padding; expanded over heads and queries, its strides are what fused attention takes.

    torch's memory-efficient attention copies a mask with a stride, but for the last, that is no multiple of 8.
    """
    attention_mask = torch.ones(3, length, dtype=torch.int64)
    attention_mask[1, 1:] = 0
    mask = token_mask(attention_mask, dtype)
    assert mask.shape == (3, 1, 1, length) and mask.dtype == dtype
    expected = [[0.0 if token else -math.inf for token in row] for row in attention_mask.tolist()]
    assert mask[:, 0, 0].tolist() == expected
    expanded = mask.expand(3, 2, length, length)
    assert expanded.stride(3) == 1 and all(stride % 8 == 0 for stride in expanded.stride()[:3])


@pytest.mark.parametrize("training", [False, True])
def test_attention_attends_to_tokens_only(training: bool) -> None:
    """Fused (evaluation) and with dropout (training on a CPU; here of one in 10^12), against softmax by hand."""
    config = AlbefConfig.tiny(hidden_dropout=0.0, attention_dropout=1e-12)
    torch.manual_seed(0)
    attention = Attention(config, context_width=config.text_width).double().train(training)
    hidden = torch.randn(3, 5, config.text_width, dtype=torch.float64)
    lengths = [5, 1, 3]
    attention_mask = torch.tensor([[1] * n + [0] * (5 - n) for n in lengths])
    attended = attention(hidden, token_mask(attention_mask, torch.float64))
    for row, length in enumerate(lengths):
        query, key, value = (
            layer(hidden[row]).unflatten(-1, (config.text_heads, -1))  # (L, h, d)
            for layer in (attention.query, attention.key, attention.value)
        )
        scores = torch.einsum("qhd,khd->hqk", query, key[:length]) / math.sqrt(query.shape[-1])
        context = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[:length]).flatten(1)
        expected = attention.norm(hidden[row] + attention.output(context))
        assert torch.allclose(attended[row], expected, atol=1e-12), f"row {row}"


@pytest.mark.parametrize("tokens", [5, 7])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.bfloat16, 0.04)])
def test_dropped_attention_and_its_gradient(tokens: int, dtype: torch.dtype, close: float) -> None:
    """On a CPU, of the same states and of others, against autograd over the formula in float64 with the same draw.

    bf16 may round values of up to 4 by 2^-8 of them, and their sums, too.
    """
    config = AlbefConfig.tiny(attention_dropout=0.3)
    attention = Attention(config, context_width=config.text_width)
    heads, width = config.text_heads, config.text_width // config.text_heads
    same = tokens == 5
    shapes = [(3, 5, 3, heads, width)] if same else [(3, 5, 1, heads, width), (3, tokens, 2, heads, width)]
    torch.manual_seed(1)
    projected = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
    attention_mask = torch.tensor([[1] * n + [0] * (tokens - n) for n in (tokens, 1, 3)])
    pull = torch.randn(3, 5, config.text_width).to(dtype)
    torch.manual_seed(2)
    attended = attention.attend(*projected, mask=token_mask(attention_mask, dtype))
    gradients = torch.autograd.grad(attended, projected, pull)

    torch.manual_seed(2)  # drawn as the weights' dtype, in their layout
    ones = torch.ones(3 * heads, 5, tokens, dtype=torch.promote_types(dtype, torch.float32))
    kept = torch.native_dropout(ones, 0.3, True)[1].view(3, heads, 5, tokens)
    exact = [states.detach().double().requires_grad_() for states in projected]
    query, key, value = (part for states in exact for part in states.unbind(2))
    scores = torch.einsum("rqhd,rkhd->rhqk", query, key) / math.sqrt(width)
    weights = scores.masked_fill(attention_mask[:, None, None] == 0, -math.inf).softmax(-1) * kept / 0.7
    expected = torch.einsum("rhqk,rkhd->rqhd", weights, value).flatten(2)
    assert torch.allclose(attended.double(), expected, atol=close)
    assert attended.dtype == dtype
    for found, right in zip(gradients, torch.autograd.grad(expected, exact, pull.double()), strict=True):
        assert found.dtype == dtype and torch.allclose(found.double(), right, atol=close)


def test_dropout_is_unbiased_and_its_gradient_has_the_same_gaps() -> None:
    """A quarter of 100,000 values is zero, give or take five deviations; the rest is 4/3 of what it was."""
    dropout = Dropout(0.25)
    values = torch.full((100_000,), 3.0, requires_grad=True)
    dropped: Tensor = dropout(values)
    assert set(dropped.tolist()) == {0.0, 4.0}
    assert abs(int((dropped == 0).sum()) - 25_000) < 5 * math.sqrt(100_000 * 0.25 * 0.75)
    dropped.sum().backward()
    assert values.grad is not None and torch.allclose(values.grad, dropped.detach() / 3)
    assert dropout.eval()(values) is values
