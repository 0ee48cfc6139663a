"""One pass of the multimodal encoder over pairs, their negatives, and masked texts."""

# B batch, P patches, L text tokens, D image width, H text width, N masked tokens, g texts per image

from __future__ import annotations

import torch
from torch import Tensor

from albef.network.fusion import MultimodalEncoder, cls_positions


def fuse_pairs(
    encoder: MultimodalEncoder,
    image_embeds: Tensor,
    attention_mask: Tensor,
    *,
    text_embeds: Tensor | None,
    negatives: tuple[Tensor, Tensor] | None,
    masked_embeds: Tensor | None = None,
    masked_positions: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Fuse everything that a step fuses with its images at once, each image's keys and values computed once.

    Args:
        encoder: the multimodal encoder.
        image_embeds: (B, 1+P, D).
        attention_mask: (B, L) of the texts, masked or not.
        text_embeds: (B, L, H) of the texts, needed with `negatives`.
        negatives: (B,) the image paired with text b and (B,) the text paired with image b; None fuses no pairs.
        masked_embeds: (B, L, H) of the texts with masked words, or None.
        masked_positions: (N,) flat positions b * L + l of the masked words, needed with `masked_embeds`.

    Returns: the [CLS] states (3B, H) of the pairs, texts with negative images, images with negative texts (None without
    `negatives`), and the states (N, H) of the masked texts at their masked words (None without them).
    """
    (size, length), mask = attention_mask.shape, attention_mask
    texts, masks = [], []  # the texts fused with image b: (B, L, H) and (B, L) each
    if masked_embeds is not None:
        texts.append(masked_embeds)
        masks.append(mask)
    if negatives is not None:
        assert text_embeds is not None
        texts += [text_embeds, text_embeds.index_select(0, negatives[1])]
        masks += [mask, mask.index_select(0, negatives[1])]
    if not texts:
        return None, None
    rows = torch.stack(texts, dim=1).flatten(0, 1)  # (g * B, L, H), image-major
    row_masks = torch.stack(masks, dim=1).flatten(0, 1)
    positions, other_image = [], None
    if masked_embeds is not None:
        # b * L + l in row g * b
        assert masked_positions is not None
        positions.append(torch.add(masked_positions, masked_positions // length, alpha=(len(texts) - 1) * length))
    if negatives is not None:
        assert text_embeds is not None
        rows, row_masks = torch.cat([rows, text_embeds]), torch.cat([row_masks, mask])
        other_image = negatives[0]
        own, negative_image = cls_positions(row_masks).split([size * len(texts), size])
        positive, negative_text = own.unflatten(0, (size, len(texts)))[:, -2:].unbind(1)
        positions += [positive, negative_image, negative_text]
    fused = encoder(rows, row_masks, image_embeds, other_image, positions=torch.cat(positions))
    if negatives is None:
        return None, fused
    if masked_positions is None or masked_embeds is None:
        return fused, None
    fused_masked, fused_pairs = fused.split([len(masked_positions), 3 * size])
    return fused_pairs, fused_masked
