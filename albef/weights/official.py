"""Convert weights to and from the layouts of the official checkpoints (salesforce/ALBEF), key for key, bit for bit.

`official_layouts` lists the kinds of checkpoints, `official_names` the names of their parts. This file reads and writes
any of them: undivided BERT, tied keys, column-wise queues, a temperature without a dimension.
"""

# E embedding, Q queue

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albef.config import AlbefConfig
from albef.errors import CheckpointError
from albef.weights.files import check_names, check_shapes, first_line, read_weights, unwrap
from albef.weights.official_layouts import QUEUES, Depths, Layout, layout_of
from albef.weights.official_names import Copy, Counted, Names
from albef.weights.position_embedding import resize_position_embedding


@dataclass(frozen=True, kw_only=True)
class OfficialWeights:
    """An official checkpoint in this project's names."""

    layout: Layout
    """Its kind."""
    config: AlbefConfig
    """Inferred from the shapes; numbers of heads as given."""
    student: dict[str, Tensor]
    """For `load_state_dict` of the layout's model; retrieval's also fits pretraining's, but for the MLM head."""
    teacher: dict[str, Tensor] | None
    """For `MomentumWeights.load_state_dict`; None when the checkpoint holds no `_m` keys."""
    queue: dict[str, Tensor] | None
    """For `FeatureQueue.load_state_dict`: image (Q, E), text (Q, E), pointer (1,); for retrieval ids (Q,) too.
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

    Keys that repeat others (positions 0, 1, 2, ..., a decoder tied to the word embeddings) may be absent, because
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
    layout = layout_of(state)
    depths = layout.depths_of_official(state, source)
    groups = {"student": layout.names(depths)}
    if layout.teacher and any(name.split(".", 1)[0].endswith("_m") for name in state):
        groups["teacher"] = layout.names(depths, teacher=True)
    queue_names = layout.queue if any(name in state for name in layout.queue) else ()

    repeats = [(name, origin) for names in groups.values() for name, origin in _repeats(names).items()]
    for name, origin in repeats:
        if name in state and isinstance(origin, Copy):
            state.setdefault(origin.of, state[name])
    expected = [name for names in groups.values() for name in _pairs(names).values()] + list(queue_names)
    check_names(
        missing=[name for name in expected if name not in state],
        unknown=sorted(set(state) - set(expected) - {name for name, _ in repeats}),
        source=source,
    )
    for name, origin in repeats:
        if name in state:
            _check_repeat(name, origin, state, source)

    try:
        config = _infer_config(state, layout, depths, vision_heads=vision_heads, text_heads=text_heads, changes=changes)
    except (ValueError, IndexError) as error:
        raise CheckpointError(
            f"{source}: the model's size cannot be read off its shapes: {first_line(error)}",
            "the file is damaged, or of another model with the same names",
        ) from error
    shapes = _shapes(layout, config)
    for names in groups.values():
        check_shapes(state, {official: shapes[ours] for ours, official in _pairs(names).items()}, source=source)
    if queue_names:
        rows = state["image_queue"].shape[-1]
        queue_shapes = {"image_queue": (config.embed_dim, rows), "text_queue": (config.embed_dim, rows)}
        others = {"idx_queue": (1, rows), "queue_ptr": (1,)}
        check_shapes(state, {name: torch.Size((queue_shapes | others)[name]) for name in queue_names}, source=source)

    weights = {
        group: {ours: state[official] for ours, official in _pairs(names).items()} for group, names in groups.items()
    }
    if "temperature" in weights["student"]:
        weights["student"]["temperature"] = weights["student"]["temperature"].reshape(1)
    if image_size is not None and image_size != config.image_size:
        config = AlbefConfig.from_dict(config.to_dict() | {"image_size": image_size})
        for tensors in weights.values():
            name = "image_encoder.pos_embed"
            tensors[name] = resize_position_embedding(tensors[name], config.num_patches)
    return OfficialWeights(
        layout=layout,
        config=config,
        student=weights["student"],
        teacher=weights.get("teacher"),
        queue={QUEUES[name]: _turn_queue(name, state[name]) for name in queue_names} or None,
    )


def to_official(
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor] | None = None,
    queue: Mapping[str, Any] | None = None,
) -> dict[str, Tensor]:
    """The official state dict of these weights, in the official order; wrap it as `{"model": ...}` to save it.

    Args:
        student: state dict of the model, which gives the layout.
        teacher: state dict of the momentum teacher, or None for a checkpoint without `_m` keys.
        queue: image (Q, E), text (Q, E), pointer, and ids (Q,) for the retrieval layout, or None.

    Raises:
        CheckpointError: names are missing or unknown.
    """
    layout = layout_of(student)
    depths = layout.depths_of_ours(student)
    groups = [_written(layout.names(depths), student, "student weights")]
    if teacher is not None:
        groups.append(_written(layout.names(depths, teacher=True), teacher, "teacher weights"))
    queues = {} if queue is None else _written_queue(layout, queue)
    # a module's own parameters and buffers come before those of its submodules
    own = {name: tensor.reshape(()) for name, tensor in groups[0].items() if name == "temp"}
    return own | queues | {name: tensor for group in groups for name, tensor in group.items() if name not in own}


def official_names(student: Mapping[str, Tensor], *, teacher: bool = False) -> dict[str, str]:
    """Our name -> official name of every weight, in the official order (what repeats another left out).

    Args:
        student: the student's weights, which give the layout and the depths.
        teacher: give the teacher's pairs (the official names that carry `_m`).
    """
    layout = layout_of(student)
    return _pairs(layout.names(layout.depths_of_ours(student), teacher=teacher))


def _pairs(names: Names) -> dict[str, str]:
    """Our name -> official name, without the keys that repeat others."""
    return {source: official for official, source in names.items() if isinstance(source, str)}


def _repeats(names: Names) -> dict[str, Copy | Counted]:
    return {official: source for official, source in names.items() if not isinstance(source, str)}


def _written(names: Names, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Our weights by their official names, and the keys that repeat them."""
    pairs = _pairs(names)
    _check_all(pairs, weights, source)
    result: dict[str, Tensor] = {}
    for official, origin in names.items():
        result[official] = weights[origin] if isinstance(origin, str) else torch.empty(0)  # its place in the order
    return result | {name: _repeated(origin, result) for name, origin in _repeats(names).items()}


def _written_queue(layout: Layout, queue: Mapping[str, Any]) -> dict[str, Tensor]:
    _check_all([QUEUES[name] for name in layout.queue], queue, "feature queue")
    return {name: _turn_queue(name, torch.as_tensor(queue[QUEUES[name]])) for name in layout.queue}


def _check_all(wanted: Iterable[str], given: Mapping[str, Any], source: str) -> None:
    wanted = list(wanted)
    missing = [name for name in wanted if name not in given]
    check_names(missing=missing, unknown=sorted(set(given) - set(wanted)), source=source)


def _repeated(origin: Copy | Counted, state: Mapping[str, Tensor]) -> Tensor:
    """The tensor of a key that repeats another."""
    if isinstance(origin, Copy):
        return state[origin.of]
    return torch.arange(len(state[origin.rows_of])).expand(1, -1).contiguous()


def _check_repeat(name: str, origin: Copy | Counted, state: Mapping[str, Tensor], source: str) -> None:
    """Check that a repeated key has the same tensor: a different one could not be loaded."""
    wanted = _repeated(origin, state)
    if state[name].dtype != wanted.dtype or not torch.equal(state[name].cpu(), wanted.cpu()):
        what = origin.of if isinstance(origin, Copy) else f"0, 1, 2, ... for the rows of {origin.rows_of}"
        raise CheckpointError(
            f"{source}: {name} is not the same as {what}",
            "the official model ties them; a checkpoint with two different tensors was not written by it",
        )


def _turn_queue(name: str, tensor: Tensor) -> Tensor:
    """Transpose features, which are columns officially and rows here; ids are (1, Q) officially and (Q,) here."""
    if name in ("image_queue", "text_queue"):
        return tensor.t().contiguous()
    if name == "idx_queue":
        return tensor.squeeze(0) if tensor.ndim == 2 else tensor.unsqueeze(0)
    return tensor.reshape(1) if name == "queue_ptr" else tensor


def _infer_config(
    state: Mapping[str, Tensor],
    layout: Layout,
    depths: Depths,
    *,
    vision_heads: int | None,
    text_heads: int | None,
    changes: Mapping[str, Any],
) -> AlbefConfig:
    """The config with these shapes. Without projections the width of the joint space has its default."""
    vision_width, _, _, patch_size = state["visual_encoder.patch_embed.proj.weight"].shape
    patches = state["visual_encoder.pos_embed"].shape[1] - 1
    vocab_size, text_width = state[f"{layout.bert}.embeddings.word_embeddings.weight"].shape
    values = {
        "image_size": round(patches**0.5) * patch_size,
        "patch_size": patch_size,
        "vision_width": vision_width,
        "vision_depth": depths.vision,
        "vision_heads": vision_heads or _heads("vision", vision_width),
        "vocab_size": vocab_size,
        "text_width": text_width,
        "text_depth": depths.text,
        "fusion_depth": depths.fusion,
        "text_heads": text_heads or _heads("text", text_width),
        "text_ffn_width": len(state[f"{layout.bert}.encoder.layer.0.intermediate.dense.weight"]),
        "max_text_positions": len(state[f"{layout.bert}.embeddings.position_embeddings.weight"]),
    }
    if "text_proj.weight" in state:
        values["embed_dim"] = len(state["text_proj.weight"])
    return AlbefConfig(**(values | dict(changes)))


def _shapes(layout: Layout, config: AlbefConfig) -> dict[str, torch.Size]:
    """The shape of every weight of the model, by our name; the temperature as officially, without a dimension."""
    with torch.device("meta"):
        model = layout.model(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return shapes | {"temperature": torch.Size(())}


def _heads(encoder: str, width: int) -> int:
    """Attention heads by the rule of every released checkpoint, one per 64 of width; shapes do not show them."""
    if width % 64:
        raise CheckpointError(
            f"the number of {encoder} attention heads of a width of {width} cannot be read off a checkpoint",
            f"give it: {encoder}_heads",
        )
    return width // 64
