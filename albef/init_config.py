"""Where the starting weights come from. Apart from loading them, so that a recipe is read without torch and timm."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Where the starting weights come from; what is not named starts random."""

    image: str | None = None
    """Image encoder: a timm or DeiT state dict (.pth, .safetensors), or `hub:NAME` to have timm fetch it, such as
    hub:deit_base_patch16_224."""
    text: str | None = None
    """Text and multimodal encoders: a BERT state dict (.safetensors, .bin, .pth), or a folder that holds one with its
    config.json."""
