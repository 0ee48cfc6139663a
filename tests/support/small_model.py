"""The shape of a model of half a million weights, nearly all of them words: for tests of what surrounds the model."""

from __future__ import annotations

from typing import Any

from albef.config import AlbefConfig


def small_config(**changes: Any) -> AlbefConfig:
    """Widths of 16, one layer of each kind, 32 px in four patches, the real vocabulary; `changes` replace fields."""
    small: dict[str, Any] = {
        "image_size": 32,
        "patch_size": 16,
        "vision_width": 16,
        "vision_depth": 1,
        "vision_heads": 2,
        "text_width": 16,
        "text_depth": 1,
        "fusion_depth": 1,
        "text_heads": 2,
        "text_ffn_width": 32,
        "embed_dim": 8,
        "layer_init_std": 0.02,  # BERT's, for which the tolerances of the tests were set
    }
    return AlbefConfig.tiny(**(small | changes))
