"""Convert weights to and from the layout of the official checkpoints (salesforce/ALBEF), key for key and bit for bit.

Only this file knows the official names, the undivided BERT, the column-wise queues and the zero-dimensional
temperature. There are two layouts: `pretrain` (BERT under `bert.`, and an MLM head) and `retrieval` (without both; also
grounding's).
"""

# D vision width, H text width, E embedding, Q queue, V vocabulary

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albef.config import AlbefConfig
from albef.errors import CheckpointError
from albef.model import AlbefForPretraining
from albef.weights.files import check_names, check_shapes, first_line, read_weights, unwrap
from albef.weights.position_embedding import resize_position_embedding

QUEUE_NAMES = {"image_queue": "image", "text_queue": "text", "idx_queue": "ids", "queue_ptr": "pointer"}
STUDENT_ONLY = ("temperature", "itm_head.")
"""Weights that the momentum teacher does not have."""


@dataclass(frozen=True, kw_only=True)
class OfficialWeights:
    """An official checkpoint in this project's names."""

    config: AlbefConfig
    """Inferred from the shapes; numbers of heads as given."""
    student: dict[str, Tensor]
    """For `AlbefForPretraining.load_state_dict`; without `mlm_head.*` in the retrieval layout."""
    teacher: dict[str, Tensor] | None
    """For `MomentumTeacher.load_state_dict`; None when the checkpoint holds no `_m` keys."""
    queue: dict[str, Tensor] | None
    """For `FeatureQueue.load_state_dict`: image (Q, E), text (Q, E), pointer (1,); for retrieval ids (1, Q) too.
    None when the checkpoint holds no queue."""


def read_official(path: str | Path, **choices: Any) -> OfficialWeights:
    """`from_official` of a checkpoint file, wrapped or bare, .pth or .safetensors."""
    return from_official(read_weights(path), source=str(path), **choices)


def from_official(
    state: Mapping[str, Any],
    *,
    vision_heads: int | None = None,
    text_heads: int | None = None,
    image_size: int | None = None,
    source: str = "official checkpoint",
    **changes: Any,
) -> OfficialWeights:
    """Translate an official state dict, strictly: every expected key must be there, and no other.

    Keys that repeat others (positions 0, 1, 2, ..., the decoder tied to the word embeddings) may be absent, because
    newer versions of transformers and safetensors leave them out; of two tied names either may be absent.

    Args:
        state: the state dict, or what the official script saved (`{"model": ...}`). `_m` keys and queues may be absent.
        vision_heads, text_heads: attention heads, which shapes do not show; by default one per 64 of width.
        image_size: resize the image position embeddings to this image side in pixels; by default keep the checkpoint's.
        source: its name in errors.
        changes: other fields of AlbefConfig that shapes do not show (token ids, dropout).

    Returns: the translated weights; tensors that need no change share memory with `state`.

    Raises:
        CheckpointError: not an ALBEF checkpoint, or keys are missing, unknown, misshapen, or not tied.
    """
    state = unwrap(state, source=source)
    layout = _Layout.of_official(state, source)
    groups = {"student": layout.pairs()}
    if any(name.split(".", 1)[0].endswith("_m") for name in state):
        groups["teacher"] = layout.pairs(teacher=True)
    queue_names = layout.queue_names() if any(name in state for name in QUEUE_NAMES) else []

    copies = [name for pairs in groups.values() for name in layout.copies(pairs.values())]
    for name in copies:
        if name in state and not name.endswith("position_ids"):
            state.setdefault(_copied_from(name), state[name])
    expected = [name for pairs in groups.values() for name in pairs.values()] + queue_names
    check_names(
        missing=[name for name in expected if name not in state],
        unknown=sorted(set(state) - set(expected) - set(copies)),
        source=source,
    )
    for name in copies:
        if name in state:
            _check_copy(name, state, source)

    try:
        config = _infer_config(state, layout, vision_heads=vision_heads, text_heads=text_heads, changes=changes)
    except (ValueError, IndexError) as error:
        raise CheckpointError(
            f"{source}: the model's size cannot be read off its shapes: {first_line(error)}",
            "the file is damaged, or of another model with the same names",
        ) from error
    shapes = _shapes(config)
    for pairs in groups.values():
        check_shapes(state, {official: shapes[ours] for ours, official in pairs.items()}, source=source)
    if queue_names:
        rows = state["image_queue"].shape[-1]
        queue_shapes = {"image_queue": (config.embed_dim, rows), "text_queue": (config.embed_dim, rows)}
        others = {"idx_queue": (1, rows), "queue_ptr": (1,)}
        check_shapes(state, {name: torch.Size((queue_shapes | others)[name]) for name in queue_names}, source=source)

    weights = {group: {ours: state[official] for ours, official in pairs.items()} for group, pairs in groups.items()}
    weights["student"]["temperature"] = weights["student"]["temperature"].reshape(1)
    if image_size is not None and image_size != config.image_size:
        config = AlbefConfig.from_dict(config.to_dict() | {"image_size": image_size})
        for tensors in weights.values():
            name = "image_encoder.pos_embed"
            tensors[name] = resize_position_embedding(tensors[name], config.num_patches)
    return OfficialWeights(
        config=config,
        student=weights["student"],
        teacher=weights.get("teacher"),
        queue={QUEUE_NAMES[name]: _turn_queue(name, state[name]) for name in queue_names} or None,
    )


def to_official(
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor] | None = None,
    queue: Mapping[str, Any] | None = None,
) -> dict[str, Tensor]:
    """The official state dict of these weights, in the official order; wrap it as `{"model": ...}` to save it.

    Args:
        student: state dict of the model; without `mlm_head.*` the retrieval layout is written.
        teacher: state dict of the momentum teacher, or None for a checkpoint without `_m` keys.
        queue: image (Q, E), text (Q, E), pointer, and ids (1, Q) for the retrieval layout, or None.

    Raises:
        CheckpointError: names are missing or unknown.
    """
    layout = _Layout.of_ours(student)
    official: dict[str, Tensor] = {"temp": torch.empty(0)}  # first in the official order; filled below
    if queue is not None:
        names = layout.queue_names()
        wanted = [QUEUE_NAMES[name] for name in names]
        missing = [name for name in wanted if name not in queue]
        check_names(missing=missing, unknown=sorted(set(queue) - set(wanted)), source="feature queue")
        official |= {name: _turn_queue(name, torch.as_tensor(queue[QUEUE_NAMES[name]])) for name in names}
    for group, weights in (("student", student), ("teacher", teacher)):
        if weights is None:
            continue
        pairs = layout.pairs(teacher=group == "teacher")
        missing = [name for name in pairs if name not in weights]
        check_names(missing=missing, unknown=sorted(set(weights) - set(pairs)), source=f"{group} weights")
        translated = {official_name: weights[ours] for ours, official_name in pairs.items()}
        official |= layout.with_copies(translated)
    official["temp"] = official["temp"].reshape(())
    return official


def official_names(student: Iterable[str], *, teacher: bool = False) -> dict[str, str]:
    """Our name -> official name of every weight, in the official order (the decoder's tied copies left out).

    Args:
        student: names of the student's weights, which give the depths.
        teacher: give the teacher's pairs (the official names that carry `_m`).
    """
    return _Layout.of_ours(student).pairs(teacher=teacher)


@dataclass(frozen=True)
class _Layout:
    """The number of layers of each kind, and whether BERT is under `bert.` with an MLM head beside it."""

    vision_depth: int
    text_depth: int
    fusion_depth: int
    mlm: bool

    @classmethod
    def of_official(cls, state: Iterable[str], source: str) -> _Layout:
        mlm = any(name.startswith("text_encoder.bert.") for name in state)
        bert = "text_encoder.bert." if mlm else "text_encoder."
        layers = _count(state, bert + r"encoder\.layer")
        crossed = [
            i for i in range(layers) if any(f"{bert}encoder.layer.{i}.crossattention." in name for name in state)
        ]
        vision_depth = _count(state, r"visual_encoder\.blocks")
        if not vision_depth or not layers or not crossed:
            raise CheckpointError(
                f"{source} is not an official ALBEF checkpoint of pretraining or retrieval: it has {vision_depth} "
                f"visual_encoder.blocks, {layers} {bert}encoder.layer, {len(crossed)} of them with crossattention",
                "give ALBEF.pth, ALBEF_4M.pth, or a fine-tuned retrieval or grounding checkpoint",
            )
        return cls(vision_depth, crossed[0], layers - crossed[0], mlm)

    @classmethod
    def of_ours(cls, names: Iterable[str]) -> _Layout:
        names = list(names)
        return cls(
            _count(names, r"image_encoder\.blocks"),
            _count(names, r"text_encoder\.layers"),
            _count(names, r"multimodal_encoder\.layers"),
            any(name.startswith("mlm_head.") for name in names),
        )

    @property
    def bert(self) -> str:
        return "text_encoder.bert." if self.mlm else "text_encoder."

    def pairs(self, *, teacher: bool = False) -> dict[str, str]:
        """Our name -> official name, in the official order."""
        student = {
            "temperature": "temp",
            **self._vision(),
            **self._text(),
            **_both("image_proj", "vision_proj"),
            **_both("text_proj", "text_proj"),
            **_both("itm_head", "itm_head"),
        }
        if not teacher:
            return student
        pairs = {ours: _momentum(name) for ours, name in student.items() if not ours.startswith(STUDENT_ONLY)}
        # the order in which the official model registers them
        order = ("visual_encoder_m", "vision_proj_m", "text_encoder_m", "text_proj_m")
        return dict(sorted(pairs.items(), key=lambda pair: order.index(pair[1].split(".", 1)[0])))

    def queue_names(self) -> list[str]:
        return [name for name in QUEUE_NAMES if name != "idx_queue" or not self.mlm]

    def copies(self, names: Iterable[str]) -> list[str]:
        """Official keys that repeat another: the positions 0, 1, 2, ... and the decoder tied to the word embeddings."""
        root = next(name.split(".", 1)[0] for name in names if name.startswith("text_encoder"))
        bert = f"{root}.bert." if self.mlm else f"{root}."
        decoder = [f"{root}.cls.predictions.decoder.{part}" for part in ("weight", "bias")] if self.mlm else []
        return [bert + "embeddings.position_ids", *decoder]

    def with_copies(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights with the repeated keys inserted where the official state dict has them."""
        positions, *decoder = self.copies(weights)
        result: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            if name == positions.replace("position_ids", "word_embeddings.weight"):
                result[positions] = _positions(weights[positions.replace("position_ids", "position_embeddings.weight")])
            result[name] = tensor
            if decoder and name == decoder[0].replace("decoder.weight", "transform.LayerNorm.bias"):
                result |= {copy: weights[_copied_from(copy)] for copy in decoder}
        return result

    def _vision(self) -> dict[str, str]:
        block = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        names = ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"]
        for i in range(self.vision_depth):
            names += [f"blocks.{i}.{part}.{kind}" for part in block for kind in ("weight", "bias")]
        names += ["norm.weight", "norm.bias"]
        return {f"image_encoder.{name}": f"visual_encoder.{name}" for name in names}

    def _text(self) -> dict[str, str]:
        pairs = {
            f"text_encoder.embeddings.{kind}.weight": f"{self.bert}embeddings.{kind}_embeddings.weight"
            for kind in ("word", "position", "token_type")
        }
        pairs |= _both("text_encoder.embeddings.norm", self.bert + "embeddings.LayerNorm")
        for i in range(self.text_depth + self.fusion_depth):
            fused = i >= self.text_depth
            ours = f"multimodal_encoder.layers.{i - self.text_depth}" if fused else f"text_encoder.layers.{i}"
            layer = f"{self.bert}encoder.layer.{i}"
            pairs |= layer_pairs(ours, layer, cross_attention=fused)
        if self.mlm:
            head = "text_encoder.cls.predictions."
            pairs |= {"mlm_head.bias": head + "bias"}
            pairs |= _both("mlm_head.transform", head + "transform.dense")
            pairs |= _both("mlm_head.norm", head + "transform.LayerNorm")
        return pairs


def layer_pairs(ours: str, bert: str, *, cross_attention: bool) -> dict[str, str]:
    """Our name -> BERT's name for one layer, e.g. of `text_encoder.layers.0` and `bert.encoder.layer.0`."""
    pairs: dict[str, str] = {}
    attentions = {"self_attention": "attention"}
    if cross_attention:
        attentions["cross_attention"] = "crossattention"
    for own, theirs in attentions.items():
        for part in ("query", "key", "value"):
            pairs |= _both(f"{ours}.{own}.{part}", f"{bert}.{theirs}.self.{part}")
        pairs |= _both(f"{ours}.{own}.output", f"{bert}.{theirs}.output.dense")
        pairs |= _both(f"{ours}.{own}.norm", f"{bert}.{theirs}.output.LayerNorm")
    pairs |= _both(f"{ours}.ffn.up", f"{bert}.intermediate.dense")
    pairs |= _both(f"{ours}.ffn.down", f"{bert}.output.dense")
    pairs |= _both(f"{ours}.ffn.norm", f"{bert}.output.LayerNorm")
    return pairs


def _both(ours: str, official: str) -> dict[str, str]:
    return {f"{ours}.{kind}": f"{official}.{kind}" for kind in ("weight", "bias")}


def _momentum(name: str) -> str:
    root, rest = name.split(".", 1)
    return f"{root}_m.{rest}"


def _count(names: Iterable[str], stem: str) -> int:
    found = (re.match(stem + r"\.(\d+)\.", name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _copied_from(name: str) -> str:
    """The official key whose tensor the decoder's key shares."""
    if name.endswith("decoder.bias"):
        return name.replace("decoder.bias", "bias")
    return name.replace("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight")


def _positions(position_embeddings: Tensor) -> Tensor:
    return torch.arange(len(position_embeddings)).expand(1, -1).contiguous()


def _check_copy(name: str, state: Mapping[str, Tensor], source: str) -> None:
    """Check that a repeated key has the same tensor: a different one could not be loaded."""
    if name.endswith("position_ids"):
        other = name.replace("position_ids", "position_embeddings.weight")
        wanted, origin = _positions(state[other]), f"0, 1, 2, ... for the rows of {other}"
    else:
        origin = _copied_from(name)
        wanted = state[origin]
    if state[name].dtype != wanted.dtype or not torch.equal(state[name].cpu(), wanted.cpu()):
        raise CheckpointError(
            f"{source}: {name} is not the same as {origin}",
            "the official model ties them; a checkpoint with two different tensors was not written by it",
        )


def _turn_queue(name: str, tensor: Tensor) -> Tensor:
    """Transpose features, which are columns officially and rows here; ids and the pointer (1,) are the same in both."""
    if name in ("image_queue", "text_queue"):
        return tensor.t().contiguous()
    return tensor.reshape(1) if name == "queue_ptr" else tensor


def _infer_config(
    state: Mapping[str, Tensor],
    layout: _Layout,
    *,
    vision_heads: int | None,
    text_heads: int | None,
    changes: Mapping[str, Any],
) -> AlbefConfig:
    """The config with these shapes."""
    vision_width, _, _, patch_size = state["visual_encoder.patch_embed.proj.weight"].shape
    patches = state["visual_encoder.pos_embed"].shape[1] - 1
    embed_dim, text_width = state["text_proj.weight"].shape
    values = {
        "image_size": round(patches**0.5) * patch_size,
        "patch_size": patch_size,
        "vision_width": vision_width,
        "vision_depth": layout.vision_depth,
        "vision_heads": vision_heads or _heads("vision", vision_width),
        "vocab_size": len(state[layout.bert + "embeddings.word_embeddings.weight"]),
        "text_width": text_width,
        "text_depth": layout.text_depth,
        "fusion_depth": layout.fusion_depth,
        "text_heads": text_heads or _heads("text", text_width),
        "text_ffn_width": len(state[layout.bert + "encoder.layer.0.intermediate.dense.weight"]),
        "max_text_positions": len(state[layout.bert + "embeddings.position_embeddings.weight"]),
        "embed_dim": embed_dim,
    }
    return AlbefConfig(**(values | dict(changes)))


def _shapes(config: AlbefConfig) -> dict[str, torch.Size]:
    """The shape of every weight of the model, by our name; the temperature as officially, without a dimension."""
    with torch.device("meta"):
        model = AlbefForPretraining(config)
    return {name: tensor.shape for name, tensor in model.state_dict().items()} | {"temperature": torch.Size(())}


def _heads(encoder: str, width: int) -> int:
    """Attention heads by the rule of every released checkpoint, one per 64 of width; shapes do not show them."""
    if width % 64:
        raise CheckpointError(
            f"the number of {encoder} attention heads of a width of {width} cannot be read off a checkpoint",
            f"give it: {encoder}_heads",
        )
    return width // 64
