"""Draw the matching loss's negatives from the micro-batch, harder ones more often (paper, section 3.2)."""

# B batch

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from albef.precision import at_least_fp32


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """The negatives of one micro-batch."""

    image: Tensor
    """(B,) int64, the image paired with text b."""
    text: Tensor
    """(B,) int64, the text paired with image b."""
    image_valid: Tensor | None = None
    """(B,) bool, False where `image` is a placeholder, because there was nothing to draw; None: all are drawn."""
    text_valid: Tensor | None = None
    """(B,) bool, the same for `text`."""

    @property
    def labels(self) -> Tensor:
        """(3B,) int64: 1 for the pairs, then 0 for texts with negative images and images with negative texts."""
        size = self.image.shape[0]
        labels = torch.zeros(3 * size, dtype=torch.int64, device=self.image.device)
        labels[:size] = 1
        return labels

    @property
    def valid(self) -> Tensor | None:
        """(3B,) bool in the order of `labels`: pairs always count; None: all count."""
        if self.image_valid is None or self.text_valid is None:
            return None
        return torch.cat([torch.ones_like(self.image_valid), self.image_valid, self.text_valid])


def negative_weights(similarity: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The distribution of a row's negative: the softmax of the similarities without the row's own partner.

    The partner is removed before the softmax. The original zeroes it afterwards, which is the same distribution until
    the partner has all of the mass and the rest underflows to zero: then `torch.multinomial` raises.

    Args:
        similarity: (..., B, B) logits, row b's partner in column b.
        allowed: bool, broadcast to the similarities: False also excludes a column; None excludes only the diagonal.

    Returns: (..., B, B) weights, rows sum to 1 (to 0 where nothing can be drawn), and (..., B) bool, False for such
    rows. An entry that is not finite is never drawn.
    """
    similarity = at_least_fp32(similarity)
    excluded = ~similarity.isfinite()
    excluded |= torch.eye(similarity.shape[-1], dtype=torch.bool, device=similarity.device)
    if allowed is not None:
        excluded |= ~allowed
    empty = excluded.all(dim=-1)
    weights = similarity.masked_fill(excluded, -math.inf).softmax(dim=-1)
    return weights.masked_fill(empty.unsqueeze(-1), 0), ~empty  # a row of -inf is NaN after the softmax


@torch.no_grad()
def draw_negatives(similarity: Tensor, draws: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One negative per row, by inverting the cumulative distribution of `negative_weights` at a given uniform.

    Nothing is read back to the host, and nothing raises: a batch of one, or a row without finite candidates, yields the
    next row of the batch as a placeholder, marked invalid.

    Args:
        similarity: (..., B, B) logits, row b's partner in column b.
        draws: (..., B) uniforms in [0, 1).
        allowed: see `negative_weights`.

    Returns: (..., B) int64 columns and (..., B) bool, False for placeholders.
    """
    weights, valid = negative_weights(similarity, allowed)
    # float64, so that a uniform near 1 does not round up to the total, beyond the last candidate
    cumulative = weights.double().cumsum(dim=-1)  # (..., B, B)
    size = weights.shape[-1]
    uniform = draws.double() * cumulative[..., -1]
    drawn = torch.searchsorted(cumulative, uniform.unsqueeze(-1), right=True).clamp(max=size - 1)  # (..., B, 1)
    # rounding may still select a column of weight zero after the last candidate: take the likeliest instead
    drawn = drawn.where(weights.gather(-1, drawn) > 0, weights.argmax(dim=-1, keepdim=True)).squeeze(-1)
    placeholder = torch.arange(1, size + 1, device=weights.device) % size
    return drawn.where(valid, placeholder), valid
