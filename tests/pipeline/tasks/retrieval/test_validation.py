"""Validation during training: right numbers, equal on all ranks, and no trace left in the training."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from albef import Albef
from albef.errors import DataError
from albef.inputs.tokenizer import AlbefTokenizer
from albef.model import AlbefForPretraining
from pipeline.cli import main
from pipeline.config.sections import ValidationConfig
from pipeline.engine.distributed import World
from pipeline.tasks.retrieval.validation import Validator
from tests.support.ranks import run_ranks
from tests.support.shards import write_corpus
from tests.support.small_model import small_config

CONFIG = small_config()
NAMES = {f"val/{prefix}{way}_recall_at_{at}" for prefix in ("", "itc_") for way in ("i2t", "t2i") for at in (1, 5, 10)}


def make_model() -> AlbefForPretraining:
    torch.manual_seed(0)
    model = AlbefForPretraining(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.train()


def world(rank: int = 0, size: int = 1) -> World:
    return World(rank=rank, local_rank=rank, size=size, device=torch.device("cpu"))


def config(manifest: Path | None, **changes: object) -> ValidationConfig:
    values: dict = {"num_images": 12, "k_test": 4, "batch_size": 3}
    return ValidationConfig(manifest=str(manifest) if manifest else None, **(values | changes))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Fifteen pairs in two shards."""
    return write_corpus(tmp_path_factory.mktemp("shards"), [8, 7])


def test_scalars_are_those_of_evaluate_on_the_same_pairs(manifest, tmp_path):
    """All pairs, first captions: the numbers of `pipeline evaluate --data` for the exported model, under val/."""
    model = make_model()
    scalars = Validator.of_manifest(config(manifest, num_images=100), CONFIG, AlbefTokenizer(), world()).run(model)
    assert set(scalars) == NAMES
    Albef(model, max_text_tokens=25).save_pretrained(tmp_path / "model")
    command = ["evaluate", "retrieval", "--model", str(tmp_path / "model"), "--data", str(manifest)]
    flags = ["--captions", "first", "--k-test", "4", "--device", "cpu", "--out", str(tmp_path / "metrics.json")]
    assert main([*command, *flags]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert scalars == {name: metrics[name.removeprefix("val/")] for name in scalars}


def test_the_first_pairs_are_taken(manifest):
    """num_images caps the set, the same ones every time: with one image every recall is 100."""
    validator = Validator.of_manifest(config(manifest, num_images=1), CONFIG, AlbefTokenizer(), world())
    assert set(validator.run(make_model()).values()) == {100.0}


def draws() -> list[float]:
    """The next number of every generator a training step might use."""
    return [torch.rand(()).item(), random.random(), float(np.random.random())]


def test_training_continues_as_if_there_had_been_no_validation(manifest):
    """Modes of all modules (one is in eval on purpose), gradients, weights, random generators: as they were."""
    validator = Validator.of_manifest(config(manifest), CONFIG, AlbefTokenizer(), world())
    outcomes = []
    for validate in (False, True):
        model = make_model()
        model.image_encoder.eval()
        torch.stack([parameter.sum() for parameter in model.parameters()]).sum().backward()
        for seed in (torch.manual_seed, random.seed, np.random.seed):
            seed(7)
        if validate:
            assert validator.run(model)
        assert not model.image_encoder.training
        assert model.text_encoder.training
        assert all(parameter.requires_grad for parameter in model.parameters())
        after_dropout = model.encode_text(torch.tensor([[101, 2000, 2001]]), torch.ones(1, 3, dtype=torch.long))[1]
        gradients = [float(parameter.grad.sum()) for parameter in model.parameters() if parameter.grad is not None]
        outcomes.append((after_dropout.tolist(), gradients, draws()))
    assert outcomes[0] == outcomes[1]


def test_dropout_is_off(manifest):
    """Twice the same numbers, and the features are those without dropout."""
    model = make_model()
    validator = Validator.of_manifest(config(manifest), CONFIG, AlbefTokenizer(), world())
    torch.manual_seed(1)
    first = validator.run(model)
    torch.manual_seed(2)
    assert validator.run(model) == first


def on_a_rank(rank: int, size: int, manifest: str, dtype: torch.dtype) -> dict[str, float]:
    """One rank's scalars."""
    validator = Validator.of_manifest(config(Path(manifest)), CONFIG, AlbefTokenizer(), world(rank, size))
    return validator.run(make_model().to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ranks_share_the_work_and_agree(manifest, dtype):
    """Two ranks, in the precision the engine trains in: the scalars of one, on both."""
    alone = on_a_rank(0, 1, str(manifest), dtype)
    assert run_ranks(on_a_rank, 2, str(manifest), dtype) == [alone, alone]


def test_without_a_manifest_there_is_nothing_to_say():
    """The default: no scalars, and nothing is read."""
    assert Validator.of_manifest(config(None), CONFIG, AlbefTokenizer(), world()).run(make_model()) == {}


def test_a_missing_manifest_is_found_before_training(tmp_path):
    """When the validator is made, not at the thousandth step."""
    with pytest.raises(DataError, match="manifest"):
        Validator.of_manifest(config(tmp_path / "nowhere"), CONFIG, AlbefTokenizer(), world())
