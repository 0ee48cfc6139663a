"""Starting weights: the image encoder from DeiT or another timm ViT, the text and multimodal layers from BERT.

Missing and left-over tensors are errors. The original loads with `strict=False`, and a run whose image encoder silently
stayed random lost 12 points of retrieval recall (salesforce/ALBEF#71).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from albef.config import AlbefConfig, InitConfig
from albef.errors import CheckpointError
from albef.json_file import read_object
from albef.model import AlbefForPretraining
from albef.weights.files import check_names, check_shapes, few, first_line, read_weights
from albef.weights.official_names import layer
from albef.weights.position_embedding import resize_position_embedding
from samples.quote import quote

HUB = "hub:"
BERT_FILES = ("model.safetensors", "pytorch_model.bin")
EMBEDDINGS = ("word", "position", "token_type")
BERT_UNUSED = re.compile(r"pooler\.|cls\.seq_relationship\.|embeddings\.position_ids$|cls\.predictions\.decoder\.")
"""Tensors that ALBEF does not use; the decoder is tied to the word embeddings, its bias is `cls.predictions.bias`."""


@dataclass(frozen=True, kw_only=True)
class InitReport:
    """What was loaded from one source."""

    part: str
    """`image` or `text`."""
    source: str
    tensors: int
    """Number of tensors loaded."""
    parameters: int
    """Number of elements in them."""
    fresh: tuple[str, ...]
    """Modules of this part that the source lacks; they keep their random weights."""
    notes: tuple[str, ...] = ()
    """Tensors that were resized or left out."""

    def __str__(self) -> str:
        line = f"{self.part}: {self.tensors} tensors, {self.parameters:,} parameters, from {self.source}"
        return "; ".join([line, *self.notes, *([f"random: {few(list(self.fresh))}"] if self.fresh else [])])


def initialise(model: AlbefForPretraining, init: InitConfig) -> list[InitReport]:
    """Load the weights that `init` names into `model`, in place; returns one report per source, for the log.

    A model on the meta device holds no numbers. Then this only checks, by the files' headers, that they exist and fit,
    and fetches no `hub:` weights.
    """
    reports = []
    if init.image is not None:
        reports.append(load_vision_weights(model, init.image))
    if init.text is not None:
        reports.append(load_bert_weights(model, init.text))
    return reports


def load_vision_weights(model: AlbefForPretraining, source: str) -> InitReport:
    """Load an image encoder by timm's names, its position embeddings resized to the model's image size.

    Args:
        model: changed in place.
        source: as `InitConfig.image`.

    Raises:
        CheckpointError: the file is unreadable, or a tensor other than the classifier `head.*` is missing, left over or
            misshapen.
    """
    device = next(model.parameters()).device
    from_hub = source.startswith(HUB)
    state = _from_hub(source.removeprefix(HUB), device) if from_hub else read_weights(source, device=device)
    state = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    encoder = model.image_encoder
    wanted = encoder.state_dict()
    check_names(
        missing=[name for name in wanted if name not in state],
        unknown=[name for name in state if name not in wanted],
        source=source,
    )
    notes = []
    before, after = state["pos_embed"].shape[1] - 1, model.config.num_patches
    if before != after:
        state["pos_embed"] = resize_position_embedding(state["pos_embed"], after)
        notes.append(f"position embeddings resized from {before} to {after} patches")
    return _load(encoder, state, part="image", source=source, fresh=[], notes=notes)


def load_bert_weights(model: AlbefForPretraining, source: str) -> InitReport:
    """Load a BERT: the first `text_depth` layers into the text encoder, the next `fusion_depth` into the multimodal.

    Cross-attention, which BERT does not have, stays random (paper, section 3.1); so does the MLM head if the file has
    none. Names may start with `bert.`, and norms may be `gamma` and `beta`, as in old files. Further layers and further
    rows of the position embeddings are left out.

    Args:
        model: changed in place.
        source: as `InitConfig.text`.

    Raises:
        CheckpointError: the file is unreadable, or its layers are too few, or its heads, names or shapes do not fit.
    """
    path = _bert_file(Path(source))
    _check_heads(path, model.config)
    device = next(model.parameters()).device
    bert = {_modern_name(name): tensor for name, tensor in read_weights(path, device=device).items()}
    if "cls.predictions.decoder.bias" in bert:
        bert.setdefault("cls.predictions.bias", bert["cls.predictions.decoder.bias"])
    bert = {name: tensor for name, tensor in bert.items() if not BERT_UNUSED.match(name)}
    has_head = any(name.startswith("cls.predictions.") for name in bert)

    config = model.config
    depth = config.text_depth + config.fusion_depth
    layers = 1 + max((_layer(name) for name in bert), default=-1)
    if layers < depth:
        raise CheckpointError(
            f"{path} has {layers} BERT layers, the model {config.text_depth} text and {config.fusion_depth} multimodal",
            f"choose text_depth + fusion_depth of at most {layers}, or a deeper BERT",
        )
    pairs = _pairs(config, has_head)
    taken = set(pairs.values())
    check_names(
        missing=[name for name in pairs.values() if name not in bert],
        unknown=[name for name in bert if name not in taken and _layer(name) < depth],
        source=str(path),
    )
    state = {ours: bert[name] for ours, name in pairs.items()}
    notes = [f"{layers - depth} further layers left out"] if layers > depth else []
    positions, rows = "text_encoder.embeddings.position.weight", config.max_text_positions
    if len(state[positions]) > rows:
        notes.append(f"first {rows} of {len(state[positions])} positions")
        state[positions] = state[positions][:rows]
    fresh = ["multimodal_encoder cross_attention", *([] if has_head else ["mlm_head"])]
    return _load(model, state, part="text", source=str(path), fresh=fresh, notes=notes)


def _pairs(config: AlbefConfig, has_head: bool) -> dict[str, str]:
    """Our name -> BERT's name (without `bert.`) of every tensor that is taken from BERT."""
    pairs = {f"text_encoder.embeddings.{kind}.weight": f"embeddings.{kind}_embeddings.weight" for kind in EMBEDDINGS}
    modules = {"text_encoder.embeddings.norm": "embeddings.LayerNorm"}
    for i in range(config.text_depth + config.fusion_depth):
        fused = i - config.text_depth
        ours = f"text_encoder.layers.{i}" if fused < 0 else f"multimodal_encoder.layers.{fused}"
        pairs |= {own: bert for bert, own in layer(f"encoder.layer.{i}", ours, cross_attention=False).items()}
    if has_head:
        pairs["mlm_head.bias"] = "cls.predictions.bias"
        modules["mlm_head.transform"] = "cls.predictions.transform.dense"
        modules["mlm_head.norm"] = "cls.predictions.transform.LayerNorm"
    for ours, bert in modules.items():
        pairs |= {f"{ours}.{kind}": f"{bert}.{kind}" for kind in ("weight", "bias")}
    return pairs


def _load(
    module: nn.Module, state: dict[str, Tensor], *, part: str, source: str, fresh: list[str], notes: list[str]
) -> InitReport:
    """Copy `state` into the module; a name that the module does not have would be a bug here."""
    wanted = module.state_dict()
    check_shapes(state, {name: wanted[name].shape for name in state}, source=source)
    unexpected = module.load_state_dict(state, strict=False).unexpected_keys
    assert not unexpected, unexpected
    return InitReport(
        part=part,
        source=source,
        tensors=len(state),
        parameters=sum(tensor.numel() for tensor in state.values()),
        fresh=tuple(fresh),
        notes=tuple(notes),
    )


def _from_hub(name: str, device: torch.device) -> dict[str, Tensor]:
    """The state dict of a pretrained timm model, fetched or from timm's cache; on the meta device only shapes."""
    try:
        with device:
            return dict(timm.create_model(name, pretrained=device.type != "meta").state_dict())
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"timm could not give pretrained weights for {name!r}: {first_line(error)}",
            "check the name and the network; on an offline machine fetch the file elsewhere and give its path",
        ) from error


def _bert_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in BERT_FILES:
        if (path / name).is_file():
            return path / name
    raise CheckpointError(
        f"folder {path} holds no BERT weights ({' or '.join(BERT_FILES)})",
        "give the folder of a downloaded BERT, or the weight file itself",
    )


def _check_heads(path: Path, config: AlbefConfig) -> None:
    """Check the number of heads, which shapes do not show, against a config.json beside the weights."""
    beside = path.parent / "config.json"
    if not beside.exists():
        return
    heads = read_object(beside, hint="fix or remove it").get("num_attention_heads", config.text_heads)
    if heads != config.text_heads:
        raise CheckpointError(
            f"{path} was trained with {quote(heads)} attention heads, the model has text_heads {config.text_heads}",
            f"set model.text_heads={heads}",
        )


def _layer(name: str) -> int:
    """The layer that a BERT name belongs to; -1 for names outside the layers."""
    found = re.match(r"encoder\.layer\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _modern_name(name: str) -> str:
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
