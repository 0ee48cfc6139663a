"""The full-size model, without its memory, against the official names, shapes, dtypes and decay groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from albef.config import AlbefConfig
from albef.model import AlbefForPretraining
from albef.weights.official import official_names, to_official
from pipeline.engine.optim import split_names
from tests.parity import goldens

RECORDED: dict[str, Any] = goldens.load("manifests_full").info["pretrain"]


@pytest.fixture(scope="module")
def model() -> AlbefForPretraining:
    """The base model on the meta device, at the recorded image size and embedding width."""
    config = RECORDED["config"]
    with torch.device("meta"):
        return AlbefForPretraining(
            AlbefConfig.base(image_size=config["image_res"], embed_dim=config["embed_dim"], temperature=config["temp"])
        )


def test_names_shapes_and_dtypes_are_the_recorded_ones(model: AlbefForPretraining) -> None:
    """Student, teacher and queues of the base model become the official state dict, key for key and in its order."""
    student = model.state_dict()
    teacher = {name: student[name] for name in official_names(student, teacher=True)}
    rows = torch.empty(RECORDED["config"]["queue_size"], model.config.embed_dim, device="meta")
    official = to_official(student, teacher, {"image": rows, "text": rows, "pointer": 0})
    ours = {name: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for name, tensor in official.items()}
    assert ours == RECORDED["state_dict"]
    assert list(ours) == list(RECORDED["state_dict"])


def test_tied_keys_are_the_recorded_ones(model: AlbefForPretraining) -> None:
    """The decoder's two keys are the same tensors as the keys they share storage with officially."""
    student = model.state_dict()
    official = to_official(student, {name: student[name] for name in official_names(student, teacher=True)})
    for copy, origin in RECORDED["shared_storage_aliases"].items():
        assert official[copy] is official[origin], copy


def test_numbers_of_parameters_are_the_recorded_ones(model: AlbefForPretraining) -> None:
    """209,937,725 trainable at 256 px; the teacher has none of the matching head and the temperature."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum(sizes.values()) == RECORDED["trainable_params"]
    assert sum(sizes[name] for name in official_names(model.state_dict(), teacher=True)) == RECORDED["momentum_params"]


def test_decay_groups_are_the_recorded_ones(model: AlbefForPretraining) -> None:
    """The official rule decays the recorded 155 parameters and leaves the recorded 264."""
    names = official_names(model.state_dict())
    without, with_decay = (
        [names[name] for name in group] for group in split_names(model.named_parameters(), "official")
    )
    assert sorted(without) == sorted(RECORDED["no_weight_decay"])
    assert sorted(with_decay) == sorted(RECORDED["weight_decay"])
