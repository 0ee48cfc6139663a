"""The official names of the parts of a model, each with the name of the same weight here, in the official order.

Only this file knows them, and which official keys repeat others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Copy:
    """An official key whose tensor is that of another official key: the two are tied."""

    of: str


@dataclass(frozen=True)
class Counted:
    """An official key that holds 0, 1, 2, ..., one number for each row of another official key's tensor."""

    rows_of: str


Names = dict[str, str | Copy | Counted]
"""Official name -> our name, or what the key repeats."""

BLOCK_PARTS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


def both(official: str, ours: str) -> dict[str, str]:
    """Weight and bias of a linear layer or a norm."""
    return {f"{official}.{kind}": f"{ours}.{kind}" for kind in ("weight", "bias")}


def image_encoder(depth: int) -> Names:
    """The vision transformer of `depth` blocks."""
    names = ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"]
    names += [f"blocks.{i}.{part}.{kind}" for i in range(depth) for part in BLOCK_PARTS for kind in ("weight", "bias")]
    names += ["norm.weight", "norm.bias"]
    return {f"visual_encoder.{name}": f"image_encoder.{name}" for name in names}


def embeddings(bert: str, ours: str) -> Names:
    """BERT's embeddings; transformers saved the position of each row beside them."""
    kinds = {f"{bert}.{kind}_embeddings.weight": f"{ours}.{kind}.weight" for kind in ("word", "position", "token_type")}
    positions: Names = {f"{bert}.position_ids": Counted(f"{bert}.position_embeddings.weight")}
    return positions | kinds | both(f"{bert}.LayerNorm", f"{ours}.norm")


def layer(bert: str, ours: str, *, cross_attention: bool) -> dict[str, str]:
    """One BERT layer, such as `text_encoder.encoder.layer.0` and `text_encoder.layers.0`."""
    names: dict[str, str] = {}
    attentions = {"attention": "self_attention"}
    if cross_attention:
        attentions["crossattention"] = "cross_attention"
    for theirs, own in attentions.items():
        for part in ("query", "key", "value"):
            names |= both(f"{bert}.{theirs}.self.{part}", f"{ours}.{own}.{part}")
        names |= both(f"{bert}.{theirs}.output.dense", f"{ours}.{own}.output")
        names |= both(f"{bert}.{theirs}.output.LayerNorm", f"{ours}.{own}.norm")
    names |= both(f"{bert}.intermediate.dense", f"{ours}.ffn.up")
    names |= both(f"{bert}.output.dense", f"{ours}.ffn.down")
    names |= both(f"{bert}.output.LayerNorm", f"{ours}.ffn.norm")
    return names


def text_and_fusion(bert: str, *, text_depth: int, fusion_depth: int) -> Names:
    """The official text encoder, which is text and multimodal encoder here, under `bert`."""
    names = embeddings(f"{bert}.embeddings", "text_encoder.embeddings")
    for i in range(text_depth):
        names |= layer(f"{bert}.encoder.layer.{i}", f"text_encoder.layers.{i}", cross_attention=False)
    for i in range(fusion_depth):
        theirs = f"{bert}.encoder.layer.{text_depth + i}"
        names |= layer(theirs, f"multimodal_encoder.layers.{i}", cross_attention=True)
    return names


def text_and_paired_fusion(bert: str, *, text_depth: int, pairs: int) -> Names:
    """The same for two images: the second layer of a pair repeats the first one's keys and values."""
    names = text_and_fusion(bert, text_depth=text_depth, fusion_depth=2 * pairs)
    for first in range(text_depth, text_depth + 2 * pairs, 2):
        for part in ("key", "value"):
            own, other = (f"{bert}.encoder.layer.{i}.crossattention.self.{part}" for i in (first + 1, first))
            names |= {f"{own}.{kind}": Copy(f"{other}.{kind}") for kind in ("weight", "bias")}
    return names


def answer_decoder(depth: int) -> Names:
    """The official text decoder of VQA, a BERT whose layers all have cross-attention; without its head."""
    names = embeddings("text_decoder.bert.embeddings", "answer_decoder.embeddings")
    for i in range(depth):
        names |= layer(f"text_decoder.bert.encoder.layer.{i}", f"answer_decoder.layers.{i}", cross_attention=True)
    return names


def word_head(root: str, ours: str) -> Names:
    """The head that predicts words, whose decoder is tied to the word embeddings of the BERT beside it."""
    head = f"{root}.cls.predictions"
    names: Names = {f"{head}.bias": f"{ours}.bias"}
    names |= both(f"{head}.transform.dense", f"{ours}.transform")
    names |= both(f"{head}.transform.LayerNorm", f"{ours}.norm")
    names[f"{head}.decoder.weight"] = Copy(f"{root}.bert.embeddings.word_embeddings.weight")
    names[f"{head}.decoder.bias"] = Copy(f"{head}.bias")
    return names


def of_teacher(names: Names, roots: Iterable[str]) -> Names:
    """The momentum copies, `_m`, of the modules in `roots`, in their order; our names stay the student's."""
    found: Names = {}
    for root in roots:
        for official, source in names.items():
            if official.split(".", 1)[0] == root:
                if isinstance(source, Copy):
                    source = Copy(_momentum(source.of))
                elif isinstance(source, Counted):
                    source = Counted(_momentum(source.rows_of))
                found[_momentum(official)] = source
    return found


def count(names: Iterable[str], stem: str) -> int:
    """Layers under `stem`, by the largest number in a name that starts with `stem.`"""
    found = (re.match(re.escape(stem) + r"\.(\d+)\.", name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _momentum(name: str) -> str:
    root, rest = name.split(".", 1)
    return f"{root}_m.{rest}"
