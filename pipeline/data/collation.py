"""What every task's batches have in common: images in shared memory, texts padded to one of a few lengths.

No loss or gradient depends on the padding, so a compiled step sees few shapes and trains the same.
"""

# B samples, L text tokens

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import get_worker_info

LENGTH_STEP = 8
"""Texts are padded to a multiple of this many tokens; it is also how attention wants the rows of its mask."""


def padded_length(longest: int, most: int) -> int:
    """The L of a micro-batch whose longest text has that many tokens: a multiple of 8, or the `max_text_tokens`."""
    return min(-(-longest // LENGTH_STEP) * LENGTH_STEP, most)


def padded_texts(input_ids: Tensor, attention_mask: Tensor, *, most: int, pad: int) -> tuple[Tensor, Tensor]:
    """(B, L) ids and 1 / 0 mask, with L of `padded_length`.

    Args:
        pad: the id of [PAD].
    """
    padding = (0, padded_length(input_ids.shape[1], most) - input_ids.shape[1])
    return F.pad(input_ids, padding, value=pad), F.pad(attention_mask, padding)


def stacked_images(images: list[Tensor]) -> Tensor:
    """(B, 3, H, W). In a loader's worker written into shared memory at once, where torch would copy it to send it."""
    if get_worker_info() is None:
        return torch.stack(images)
    shape = (len(images), *images[0].shape)
    storage = torch.UntypedStorage._new_shared(len(images) * images[0].nbytes)  # as torch's own collate
    return torch.stack(images, out=images[0].new_empty(0).set_(storage).view(shape))
