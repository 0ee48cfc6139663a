"""Official checkpoints in, model folders out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from albef import Albef
from albef.model import AlbefForPretraining
from albef.momentum import MomentumTeacher
from albef.objective.queue import FeatureQueue
from albef.weights.official import to_official
from pipeline.cli import main
from tests.support.refusal import refusal
from tests.support.small_model import small_config

CONFIG = small_config(max_text_positions=512)
HEADS = ["--vision-heads", "2", "--text-heads", "2"]


def make_student() -> AlbefForPretraining:
    torch.manual_seed(3)
    return AlbefForPretraining(CONFIG).eval()


def official(student: AlbefForPretraining, *, momentum: bool) -> dict[str, Tensor]:
    """The official state dict, with or without what only pretraining needs."""
    if not momentum:
        return to_official(student.state_dict())
    teacher = MomentumTeacher(student, device="cpu").state_dict()
    queue = FeatureQueue(10, CONFIG.embed_dim, seed=0).state_dict()
    return to_official(student.state_dict(), teacher, queue)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("momentum", [True, False])
def test_every_weight_arrives(tmp_path, wrapped, momentum):
    """As the official scripts save it or bare, with `_m` keys and queues or without: the student, bit for bit."""
    student = make_student()
    state = official(student, momentum=momentum)
    file = tmp_path / "ALBEF.pth"
    torch.save({"model": state, "epoch": 29, "config": {"lr": 1e-4}} if wrapped else state, file)
    out = tmp_path / "model"
    assert main(["import", str(file), "--out", str(out), *HEADS]) == 0
    loaded = Albef.from_pretrained(out, device="cpu")
    assert loaded.max_text_tokens == 30
    for name, tensor in student.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    card = (out / "README.md").read_text()
    assert ("left out: momentum teacher and queues" in card) == momentum
    assert "ALBEF.pth" in card


def test_position_embeddings_are_resized(tmp_path):
    """--image-size 48: nine patches from four, by the bicubic of the original (torch's, corners not aligned)."""
    student = make_student()
    torch.save(official(student, momentum=False), tmp_path / "ALBEF.pth")
    out = tmp_path / "model"
    assert main(["import", str(tmp_path / "ALBEF.pth"), "--out", str(out), "--image-size", "48", *HEADS]) == 0
    loaded = Albef.from_pretrained(out, device="cpu")
    assert loaded.config.image_size == 48
    old, new = student.image_encoder.pos_embed, loaded.model.image_encoder.pos_embed
    assert old is not None
    assert new is not None
    grid = old[:, 1:].reshape(1, 2, 2, -1).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(grid, size=(3, 3), mode="bicubic", align_corners=False)
    assert torch.equal(new[:, :1], old[:, :1])
    assert torch.allclose(new[:, 1:], wanted.flatten(2).transpose(1, 2), atol=1e-7)
    assert "resized to 48 px" in (out / "README.md").read_text()


def test_a_retrieval_checkpoint_gets_an_untrained_mlm_head_and_says_so(tmp_path):
    """Fine-tuned retrieval and grounding checkpoints have no MLM head; all else arrives, twice the same."""
    student = make_student()
    weights = {name: tensor for name, tensor in student.state_dict().items() if not name.startswith("mlm_head.")}
    torch.save(to_official(weights), tmp_path / "refcoco.pth")
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        assert main(["import", str(tmp_path / "refcoco.pth"), "--out", str(out), *HEADS]) == 0
    one, two = (Albef.from_pretrained(out, device="cpu").model.state_dict() for out in outs)
    assert all(torch.equal(one[name], tensor) for name, tensor in weights.items())
    assert all(torch.equal(one[name], tensor) for name, tensor in two.items())
    assert "no MLM head" in (outs[0] / "README.md").read_text()


def test_what_cannot_be_imported_is_refused(tmp_path, capsys):
    """Missing, rubbish, another model, a weight too few, heads unknown, an odd image size: one sentence, no folder."""
    state = official(make_student(), momentum=False)
    files = {
        "rubbish": b"PK not really",
        "other": {"model": {"layer.weight": torch.zeros(2)}},
        "short": {name: tensor for name, tensor in state.items() if name != "itm_head.bias"},
        "good": state,
    }
    for name, content in files.items():
        path = tmp_path / f"{name}.pth"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)

    def error_of(name: str, *more: str) -> str:
        return refusal(capsys, ["import", str(tmp_path / f"{name}.pth"), "--out", str(tmp_path / "model"), *more])

    assert "does not exist" in error_of("nowhere")
    assert "cannot be read" in error_of("rubbish")
    assert "not an official ALBEF checkpoint" in error_of("other")
    assert "itm_head.bias" in error_of("short", *HEADS)
    assert "heads" in error_of("good")
    assert "image_size 40" in error_of("good", *HEADS, "--image-size", "40")
    assert not (tmp_path / "model").exists()
    assert not [path for path in Path(tmp_path).iterdir() if path.name.startswith(".")]
