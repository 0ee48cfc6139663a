"""Mask tokens for masked language modelling, as BERT and the original do."""

# B batch, L text tokens, N masked tokens

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from albef.config import AlbefConfig

SHARE_MASKED, SHARE_RANDOM = 0.8, 0.1
"""Shares of the chosen tokens; the remaining tenth keeps its word."""


@dataclass(frozen=True, kw_only=True)
class MaskedTokens:
    """The result of masking: three fields of `PretrainBatch`."""

    mlm_input_ids: Tensor
    """(B, L) int64."""
    mlm_positions: Tensor
    """(N,) int64, flat positions b * L + l of the chosen tokens, ascending; N may be 0."""
    mlm_labels: Tensor
    """(N,) int64, the original ids there."""


def mask_tokens(
    input_ids: Tensor,
    *,
    config: AlbefConfig,
    probability: float,
    generator: torch.Generator | None = None,
    draws: Tensor | None = None,
    chosen: Tensor | None = None,
    replacements: Tensor | None = None,
) -> MaskedTokens:
    """Choose tokens and hide them: 80% become [MASK], 10% a random word, 10% stay.

    [PAD] and [CLS] are never chosen, [SEP] may be; a random word is uniform over the whole vocabulary, special tokens
    included (the original's semantics). Call it on the CPU, where N is known without waiting for a device.

    Args:
        input_ids: (B, L) int64, on the CPU.
        config: gives the special tokens and the size of the vocabulary.
        probability: probability that a token is chosen.
        generator: source of every draw; None takes torch's default one. The number of draws depends only on the shape.
        draws: (B, L, 3) uniforms in [0, 1), float64, instead of the generator's: each token's own choice, kind and
            word, so that a text's mask does not depend on its batch.
        chosen: (B, L) bool, instead of the drawn choice.
        replacements: (B, L) ids written at the chosen positions, instead of the 80 / 10 / 10 draw.

    Returns: ids after masking, and the positions and ids to predict.
    """
    if draws is None:
        draws = torch.rand(*input_ids.shape, 3, generator=generator, dtype=torch.float64)
    choice, kind, word = draws.unbind(2)
    random_words = (word * config.vocab_size).long()
    if chosen is None:
        special = (input_ids == config.pad_token_id) | (input_ids == config.cls_token_id)
        chosen = (choice < probability) & ~special
    if replacements is None:
        replacements = input_ids.where(kind >= SHARE_MASKED + SHARE_RANDOM, random_words)
        replacements = replacements.masked_fill(kind < SHARE_MASKED, config.mask_token_id)
    positions = chosen.flatten().nonzero().squeeze(1)
    return MaskedTokens(
        mlm_input_ids=replacements.where(chosen, input_ids),
        mlm_positions=positions,
        mlm_labels=input_ids.flatten()[positions],
    )
