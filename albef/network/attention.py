"""Multi-head attention of BERT's layers: projections, fused attention, and attention with dropout on a CPU."""

# R rows (texts), L text tokens, T context tokens, H width, C context width, h heads, d = H / h

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from albef.config import AlbefConfig
from albef.network.layers import BERT_NORM_EPS, Dropout
from albef.precision import wide_dtype

ALIGNED = 8
"""A mask's rows start at multiples of this many elements: torch's memory-efficient attention copies others per call."""


class Attention(nn.Module):
    """Multi-head attention, followed by BERT's residual and norm (Devlin et al. 2019; post-norm).

    Attention is a method apart from the projections, because the multimodal encoder projects the keys and values of an
    image once and lets several texts attend to them.
    """

    def __init__(self, config: AlbefConfig, *, context_width: int) -> None:
        super().__init__()
        width = config.text_width
        self.heads = config.text_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context_width, width)
        self.value = nn.Linear(context_width, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=BERT_NORM_EPS)
        self.dropout = Dropout(config.hidden_dropout)
        self.attention_dropout = config.attention_dropout
        self.keep_weights = False
        """Grad-CAM sets this, in evaluation: attention is computed unfused, and kept in `weights` with its gradient."""
        self.weights: Tensor | None = None

    def attend(self, *projected: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention of projected queries over projected keys and values.

        Args:
            projected: (R, L, 3, h, d) queries, keys and values of the same states; or (R, L, 1, h, d) queries, and
                (R, T, 2, h, d) keys and values.
            mask: added to the scores, broadcast to (R, h, L, T), of the queries' type; None allows all (`token_mask`).

        Returns: (R, L, H), before the output projection.
        """
        dropout = self.attention_dropout if self.training else 0.0
        if dropout and projected[0].device.type == "cpu":  # no fused kernel of torch has dropout there
            if torch.compiler.is_compiling():  # which writes a backward of its own; torch 2.11 cannot trace this one
                return _dropped_attention(mask, dropout, projected)[0].flatten(2)
            return _DroppedAttention.apply(mask, dropout, *projected).flatten(2)
        query, key, value = (part.transpose(1, 2) for states in projected for part in states.unbind(2))  # (R, h, ., d)
        if self.keep_weights:
            attended = self._attend_keeping_weights(query, key, value, mask)
        else:
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return attended.transpose(1, 2).flatten(2)

    def _attend_keeping_weights(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """The same of (R, h, ., d), without dropout."""
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])  # (R, h, L, T)
        self.weights = (scores if mask is None else scores + mask).softmax(dim=-1)
        if self.weights.requires_grad:
            self.weights.retain_grad()
        return self.weights @ value

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """Output projection, dropout, residual and norm: (R, L, H) each."""
        return self.norm(hidden + self.dropout(self.output(attended)))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Self-attention of (R, L, H) under a mask that is added to the scores, broadcast to (R, h, L, L)."""
        projected = project_together(hidden, [self.query, self.key, self.value])  # (R, L, 3H)
        attended = self.attend(projected.unflatten(-1, (3, self.heads, -1)), mask=mask)
        return self.finish(hidden, attended)


def project_together(states: Tensor, layers: list[nn.Linear]) -> Tensor:
    """Linear layers of the same input, (..., C) to (..., sum of widths), as one product and one in the backward."""
    weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
    return F.linear(states, weight, bias)


def token_mask(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What `Attention` adds to its scores, (R, 1, 1, L): 0 at tokens, -inf at padding, from 1 / 0 (R, L).

    Queries at padding attend to the tokens too, so their (unused) states stay finite: no row is padding throughout.

    Args:
        dtype: of the scores, which is that of the weights.
    """
    padded = F.pad(attention_mask, (0, -attention_mask.shape[1] % ALIGNED)).to(dtype)
    return padded.log()[:, None, None, : attention_mask.shape[1]]


class _DroppedAttention(torch.autograd.Function):
    """`Attention.attend` with dropout of its weights, as (R, L, h, d); in fp32 at least, as fused kernels compute.

    An operation that widens or rounds also brings its tensor into the layout that the next one reads.
    """

    @staticmethod
    def forward(ctx: Any, mask: Tensor | None, dropout: float, *projected: Tensor) -> Tensor:
        attended, weights, kept = _dropped_attention(mask, dropout, projected)
        ctx.save_for_backward(*projected, weights, kept)  # not widened: in bf16 half the bytes
        width, heads, dtype = projected[0].shape[-1], projected[0].shape[3], projected[0].dtype
        ctx.scale, ctx.undropped, ctx.heads, ctx.dtype = 1 / math.sqrt(width), 1 / (1 - dropout), heads, dtype
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *projected, weights, kept = ctx.saved_tensors
        wide = [_by_head(states) for states in projected]
        query, key, value = (part for states in wide for part in states)
        grads = [torch.empty_like(states) for states in wide]
        of_query, of_key, of_value = (part for states in grads for part in states)
        grad = _laid_out(grad.transpose(1, 2), weights.dtype).flatten(0, 1)  # (R * h, L, d)
        # the dropped weights are computed again, rather than kept
        dropped = torch.ops.aten.native_dropout_backward(weights, kept, ctx.undropped)
        torch.bmm(dropped.mT, grad, out=of_value)
        of_weights = torch.ops.aten.native_dropout_backward(grad @ value.mT, kept, ctx.undropped)
        of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        torch.baddbmm(of_query, of_scores, key, beta=0, alpha=ctx.scale, out=of_query)
        torch.baddbmm(of_key, of_scores.mT, query, beta=0, alpha=ctx.scale, out=of_key)
        by_token = (states.unflatten(1, (-1, ctx.heads)).permute(1, 3, 0, 2, 4) for states in grads)
        return None, None, *(_laid_out(states, ctx.dtype) for states in by_token)


def _dropped_attention(
    mask: Tensor | None, dropout: float, projected: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """(R, L, h, d), the weights (R * h, L, T) before dropout, and where it keeps them."""
    heads, dtype = projected[0].shape[3], projected[0].dtype
    query, key, value = (part for states in projected for part in _by_head(states))
    scale = 1 / math.sqrt(query.shape[-1])
    scores = torch.baddbmm(query.new_empty(()), query, key.mT, beta=0, alpha=scale)  # (R * h, L, T)
    if mask is not None:
        scores.unflatten(0, (-1, heads)).add_(mask)
    weights = scores.softmax(dim=-1)
    dropped, kept = torch.native_dropout(weights, dropout, True)
    return _laid_out((dropped @ value).unflatten(0, (-1, heads)).transpose(1, 2), dtype), weights, kept


def _by_head(projected: Tensor) -> Tensor:
    """(R, ., n, h, d) to (n, R * h, ., d), in fp32 at least."""
    return _laid_out(projected.permute(2, 0, 3, 1, 4), wide_dtype(projected.dtype)).flatten(1, 2)


def _laid_out(states: Tensor, dtype: torch.dtype) -> Tensor:
    """As `dtype`, in memory in the order of its dimensions."""
    return states.to(dtype, memory_format=torch.contiguous_format)
