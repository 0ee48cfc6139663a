"""The full-size models, without their memory, against the official names, shapes, dtypes and decay groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from albef.config import AlbefConfig
from albef.weights.official import official_names, to_official
from albef.weights.official_layouts import ALIGNMENT, ENTAILMENT, NLVR2, PRETRAINING, QUEUES, RETRIEVAL, VQA, Layout
from pipeline.engine.optim import split_names
from tests.parity import goldens

MANIFESTS: dict[str, Any] = goldens.load("manifests_full").info
LAYOUTS = {
    "pretrain": PRETRAINING,
    "retrieval": RETRIEVAL,
    "ve": ENTAILMENT,
    "vqa": VQA,
    "nlvr": NLVR2,
    "pretrain_nlvr": ALIGNMENT,
}


@pytest.fixture(scope="module", params=LAYOUTS)
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


@pytest.fixture(scope="module")
def recorded(kind: str) -> dict[str, Any]:
    manifest: dict[str, Any] = MANIFESTS[kind]
    return manifest


@pytest.fixture(scope="module")
def layout(kind: str) -> Layout:
    return LAYOUTS[kind]


@pytest.fixture(scope="module")
def model(layout: Layout, recorded: dict[str, Any]) -> nn.Module:
    """The base model on the meta device, at the recorded image size and embedding width."""
    config = recorded["config"]
    with torch.device("meta"):
        return layout.model(
            AlbefConfig.base(image_size=config["image_res"], embed_dim=config["embed_dim"], temperature=config["temp"])
        )


def written(model: nn.Module, layout: Layout, recorded: dict[str, Any]) -> dict[str, Tensor]:
    """The official state dict of the model with its teacher and, where it has one, its queue."""
    student = model.state_dict()
    teacher = {name: student[name] for name in official_names(student, teacher=True)}
    config, queue = recorded["config"], None
    if layout.queue:
        rows = torch.empty(config["queue_size"], config["embed_dim"], device="meta")
        ids = torch.empty(config["queue_size"], dtype=torch.int64, device="meta")
        parts = {"image": rows, "text": rows, "ids": ids, "pointer": 0}
        queue = {QUEUES[name]: parts[QUEUES[name]] for name in layout.queue}
    return to_official(student, teacher or None, queue)


def test_names_shapes_and_dtypes_are_the_recorded_ones(
    model: nn.Module, layout: Layout, recorded: dict[str, Any]
) -> None:
    """Student, teacher and queues of the base model become the official state dict, key for key and in its order."""
    official = written(model, layout, recorded)
    ours = {name: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for name, tensor in official.items()}
    assert ours == recorded["state_dict"]
    assert list(ours) == list(recorded["state_dict"])


def test_tied_keys_are_the_recorded_ones(model: nn.Module, layout: Layout, recorded: dict[str, Any]) -> None:
    """Keys that share storage officially are the same tensors here."""
    official = written(model, layout, recorded)
    for copy, origin in recorded["shared_storage_aliases"].items():
        assert official[copy] is official[origin], copy


def test_numbers_of_parameters_are_the_recorded_ones(model: nn.Module, recorded: dict[str, Any]) -> None:
    """Pretraining's 209,937,725 trainable at 256 px; its teacher has none of the matching head and the temperature."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum(sizes.values()) == recorded["trainable_params"]
    assert sum(sizes[name] for name in official_names(model.state_dict(), teacher=True)) == recorded["momentum_params"]


def test_decay_groups_are_the_recorded_ones(model: nn.Module, recorded: dict[str, Any]) -> None:
    """The official rule decays the recorded parameters (155 in pretraining) and leaves the recorded others (264)."""
    names = official_names(model.state_dict())
    without, with_decay = (
        [names[name] for name in group] for group in split_names(model.named_parameters(), "official")
    )
    assert sorted(without) == sorted(recorded["no_weight_decay"])
    assert sorted(with_decay) == sorted(recorded["weight_decay"])
