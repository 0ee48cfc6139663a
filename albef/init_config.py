"""Where the starting weights come from. Separate from the code that loads them, so that reading a
recipe imports neither torch nor timm."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Where the starting weights come from; parts that are not named start from random weights."""

    image: str | None = None
    """Image encoder: a timm or DeiT state dict (.pth, .safetensors), or `hub:NAME` to have timm fetch it, such as
    hub:deit_base_patch16_224."""
    text: str | None = None
    """Text and multimodal encoders: a BERT state dict (.safetensors, .bin, .pth), or a folder that holds one with its
    config.json."""
