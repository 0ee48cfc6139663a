"""Reads the recorded tensors and builds from them a student, a teacher, a queue and batches; compares with a reason.

Everything is driven by the recording's own configuration: another folder (`ALBEF_GOLDENS`) with other widths, depths,
heads, batch sizes and seeds must pass unchanged.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from albef.config import AlbefConfig, ObjectiveConfig
from albef.inputs.batch import PretrainBatch
from albef.model import AlbefForPretraining
from albef.momentum import MomentumTeacher
from albef.objective.queue import FeatureQueue
from albef.weights.official import from_official, official_names

EXACT = 1e-9
"""Tolerance of float64 tensors, relative to the largest entry when that is above 1."""
ROUNDED = 1e-6
"""Tolerance of tensors stored in float32, alike."""
NOISE_FACTOR = 10
"""How many times the official code's own float32 error a float32 tensor may be away."""
FLOAT32_STEPS = 8
"""Floor of the float32 tolerance in units of rounding of the largest entry: a scalar's recorded noise can be near zero
by luck (the recorded matching loss is off by 5e-9, a tenth of one rounding step)."""


def folder() -> Path:
    """Where the goldens are."""
    return Path(os.environ.get("ALBEF_GOLDENS") or Path(__file__).parents[1] / "goldens")


@dataclass(frozen=True)
class Golden:
    """One recording: its JSON and its tensors."""

    name: str
    info: dict[str, Any]
    tensors: dict[str, Tensor]

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose key starts with `prefix`, without it."""
        return {key[len(prefix) :]: value for key, value in self.tensors.items() if key.startswith(prefix)}

    def noise(self, key: str) -> float:
        """The official code's largest error on `key` when run in float32."""
        return float(self.info["fp32_noise"][key]["max_abs_err"])


@functools.cache
def load(name: str) -> Golden:
    """The recording `name` (do not change its tensors)."""
    path = folder() / name
    tensors = load_file(path.with_suffix(".safetensors")) if path.with_suffix(".safetensors").exists() else {}
    return Golden(name, json.loads(path.with_suffix(".json").read_text()), tensors)


@dataclass(frozen=True)
class Trio:
    """What a pretraining step needs."""

    student: AlbefForPretraining
    teacher: MomentumTeacher
    queue: FeatureQueue

    def official(self, *, teacher: bool = False) -> dict[str, str]:
        """Our name to official name."""
        return official_names(dict(self.student.named_parameters()), teacher=teacher)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The student's parameters by official name."""
        ours = dict(self.student.named_parameters())
        return {official: ours[name] for name, official in self.official().items()}

    def averaged(self) -> dict[str, Tensor]:
        """The teacher's weights by official name."""
        ours = self.teacher.state_dict()
        return {official: ours[name] for name, official in self.official(teacher=True).items()}


def model_config(golden: Golden) -> AlbefConfig:
    """The recording's configuration in our names; a continued recording leaves the tokens to the one it starts from."""
    config, bert = golden.info["config"], golden.info["bert_config"]
    tokens = (golden if "special_tokens" in golden.info else load("pretrain_tiny")).info["special_tokens"]
    return AlbefConfig(
        image_size=config["image_res"],
        patch_size=config["vit_patch"],
        vision_width=config["vit_width"],
        vision_depth=config["vit_depth"],
        vision_heads=config["vit_heads"],
        vocab_size=bert["vocab_size"],
        text_width=bert["hidden_size"],
        text_depth=bert["fusion_layer"],
        fusion_depth=bert["num_hidden_layers"] - bert["fusion_layer"],
        text_heads=bert["num_attention_heads"],
        text_ffn_width=bert["intermediate_size"],
        max_text_positions=bert["max_position_embeddings"],
        hidden_dropout=bert["hidden_dropout_prob"],
        attention_dropout=bert["attention_probs_dropout_prob"],
        embed_dim=config["embed_dim"],
        temperature=config["temp"],
        pad_token_id=tokens["pad_token_id"],
        cls_token_id=tokens["cls_token_id"],
        mask_token_id=tokens["mask_token_id"],
    )


def objective(golden: Golden, **changes: Any) -> ObjectiveConfig:
    """The recording's objective."""
    config = golden.info["config"]
    values = {key: config[key] for key in ("alpha", "momentum", "queue_size", "mlm_probability")}
    return ObjectiveConfig(**(values | {"max_text_tokens": golden.info["run"]["L"]} | changes))


def build(
    golden: Golden,
    dtype: torch.dtype,
    *,
    state: Mapping[str, Tensor] | None = None,
    device: torch.device | str = "cpu",
    **changes: Any,
) -> Trio:
    """Student (in eval mode), teacher and queue with the recorded weights.

    Args:
        dtype: of the student and the teacher's forward; the teacher's weights and the queue are fp32 at least.
        state: official state dict; None takes the recording's `state/`.
        device: where all three live.
        changes: of the objective.
    """
    config = model_config(golden)
    weights = from_official(
        golden.under("state/") if state is None else state,
        vision_heads=config.vision_heads,
        text_heads=config.text_heads,
    )
    assert weights.teacher is not None and weights.queue is not None
    student = AlbefForPretraining(config, objective(golden, **changes))
    student.load_state_dict(weights.student)
    student.to(device, dtype).eval()
    teacher = MomentumTeacher(student, device=device, compute_dtype=dtype)
    teacher.load_state_dict(weights.teacher)
    wide = torch.promote_types(dtype, torch.float32)
    queue = FeatureQueue(student.objective.queue_size, config.embed_dim, seed=0, device=device, dtype=wide)
    queue.load_state_dict({key: weights.queue[key] for key in ("image", "text", "pointer")})
    return Trio(student, teacher, queue)


def make_batch(
    image: Tensor, input_ids: Tensor, attention_mask: Tensor, mlm_input_ids: Tensor, mlm_labels: Tensor
) -> PretrainBatch:
    """A micro-batch with a recorded mask; its draws are never used, because negatives are injected too."""
    positions = (mlm_labels.flatten() != -100).nonzero().squeeze(1)
    return PretrainBatch(
        image=image,
        input_ids=input_ids,
        attention_mask=attention_mask,
        mlm_input_ids=mlm_input_ids,
        mlm_positions=positions,
        mlm_labels=mlm_labels.flatten()[positions],
        negative_draws=torch.full((2, len(image)), torch.nan, dtype=torch.float64),
    )


def recorded_batch(golden: Golden, source: str, draws: str) -> tuple[PretrainBatch, tuple[Tensor, Tensor]]:
    """The micro-batch at `source` with the draws at `draws` (both end in /), and its injected negatives."""
    batch = make_batch(
        *(golden[source + key] for key in ("image", "input_ids", "attention_mask")),
        *(golden[draws + key] for key in ("mlm_input_ids", "mlm_labels")),
    )
    return batch, (golden[draws + "neg_image_idx"], golden[draws + "neg_text_idx"])


def official_groups(golden: Golden) -> list[dict[str, Any]]:
    """AdamW groups by official name, by the official rule, read off the recorded shapes.

    No decay is exactly: one-dimensional, or named `.bias`; the temperature is zero-dimensional officially.
    """
    groups: list[dict[str, Any]] = [
        {"weight_decay": 0.0, "names": []},
        {"weight_decay": golden.info["run"]["wd"], "names": []},
    ]
    for key, tensor in golden.under("state/").items():
        root = key.split(".", 1)[0]
        repeats = key.endswith(("decoder.weight", "decoder.bias"))
        if not root.endswith(("_m", "queue", "queue_ptr")) and tensor.is_floating_point() and not repeats:
            groups[0 if tensor.ndim == 1 or key.endswith(".bias") else 1]["names"].append(key)
    return groups


def adamw(trio: Trio, groups: Iterable[Mapping[str, Any]], lr: float) -> torch.optim.AdamW:
    """The official optimizer over groups given by official name."""
    parameters = trio.parameters()
    return torch.optim.AdamW(
        [{"params": [parameters[n] for n in g["names"]], "weight_decay": g["weight_decay"]} for g in groups],
        lr=lr,
        betas=(0.9, 0.999),
        eps=1e-8,
    )


def check(name: str, ours: Tensor, recorded: Tensor, tolerance: float, *, mask: Tensor | None = None) -> None:
    """Assert that a tensor is the recorded one.

    Args:
        tolerance: largest absolute difference allowed.
        mask: (B, L) 1 / 0; the positions to compare of (B, L, ...) tensors.
    """
    assert ours.shape == recorded.shape, f"{name}: {tuple(ours.shape)}, recorded {tuple(recorded.shape)}"
    error = (ours.detach().double() - recorded.double()).abs()
    if mask is not None:
        error = error * mask.reshape(*mask.shape, *[1] * (error.ndim - mask.ndim))
    if error.numel() == 0:
        return
    worst = int(error.nan_to_num(nan=torch.inf).argmax())
    place = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), error.shape))
    mine, theirs, off = (tensor.flatten()[worst].item() for tensor in (ours, recorded, error))
    assert off <= tolerance, (
        f"{name}{list(place)}: {mine:.12g}, recorded {theirs:.12g}, off by {off:.3g}, allowed {tolerance:.3g}"
    )


def tolerance(golden: Golden, key: str, recorded: Tensor, dtype: torch.dtype, *, noise: str | None = None) -> float:
    """How far `recorded`, stored under `key`, may be away in `dtype`.

    Args:
        noise: key of the recorded float32 noise, where it is another.
    """
    size = float(recorded.abs().max())
    if dtype == torch.float64:
        return (EXACT if recorded.dtype == torch.float64 else ROUNDED) * max(1.0, size)
    floor = FLOAT32_STEPS * torch.finfo(torch.float32).eps * size
    return max(NOISE_FACTOR * golden.noise(noise or key), floor)
