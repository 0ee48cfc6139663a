"""Official checkpoints in, model folders out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from albef import Albef, AlbefAlignment, AlbefEntailment, AlbefNlvr2, AlbefVqa
from albef.downstream.vqa import AlbefForVqa
from albef.model import AlbefForPretraining
from albef.momentum import MomentumTeacher
from albef.objective.queue import FeatureQueue
from albef.weights.official import official_names, to_official
from albef.weights.official_layouts import LAYOUTS as OFFICIAL
from pipeline.cli import main
from pipeline.tasks.pretraining.import_official import LAYOUTS
from pipeline.tasks.vqa.annotations import read_candidates
from tests.support.refusal import refusal
from tests.support.small_model import small_config

CONFIG = small_config(max_text_positions=512)
CLASSES: dict[str, Any] = {
    "snli-ve": AlbefEntailment,
    "vqa": AlbefVqa,
    "nlvr2-pretrain": AlbefAlignment,
    "nlvr2": AlbefNlvr2,
}
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


@pytest.mark.parametrize("task", list(LAYOUTS))
def test_every_task_comes_back_to_the_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str) -> None:
    """A file of student and teacher, imported as each: a folder that its class loads, whose weights are the file's, and
    which gives the file's keys and tensors again. A file of another task is named."""
    torch.manual_seed(4)
    layout = next(layout for layout in OFFICIAL if layout.name == LAYOUTS[task])
    student, other = (layout.model(CONFIG).state_dict() for _ in range(2))
    names = official_names(student, teacher=True)
    teacher = {name: other[name] for name, written in names.items() if "_m." in written}
    state = to_official(student, teacher or None)
    torch.save({"model": state}, tmp_path / "tuned.pth")
    kinds = {"student": student} | ({"teacher": student | teacher} if layout.teacher else {})
    command = ["import", str(tmp_path / "tuned.pth"), *HEADS, "--task"]
    for kind, weights in kinds.items():
        assert main([*command, task, "--out", str(tmp_path / kind), "--weights", kind]) == 0
        loaded = CLASSES.get(task, Albef).from_pretrained(tmp_path / kind, device="cpu")
        ours = loaded.model.state_dict()
        assert ours.keys() == weights.keys() and all(torch.equal(ours[name], weights[name]) for name in weights)
        again = to_official(ours, teacher or None)
        assert list(again) == list(state)
        assert all(torch.equal(again[name], state[name]) for name in state if kind == "student" or "_m." in name)
        card = (tmp_path / kind / "README.md").read_text()
        assert ("left out: student" in card) == (kind == "teacher")
        assert f"import {CLASSES.get(task, Albef).__name__}\n" in card
    wrong = "vqa" if task != "vqa" else "nlvr2"
    said = refusal(capsys, [*command, wrong, "--out", str(tmp_path / "none")])
    assert f"is a checkpoint of {LAYOUTS[task]}, not of {LAYOUTS[wrong]}" in said and f"--task {task}" in said

    torch.save(to_official(student), tmp_path / "tuned.pth")
    assert "no momentum weights" in refusal(
        capsys, [*command, task, "--out", str(tmp_path / "none"), "--weights", "teacher"]
    )
    assert not (tmp_path / "none").exists()


def test_a_model_of_vqa_keeps_how_it_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its list of answers and the double count; flags that are refused for a file of another task."""
    torch.manual_seed(5)
    torch.save(to_official(AlbefForVqa(CONFIG).state_dict()), tmp_path / "vqa.pth")
    (tmp_path / "answers.json").write_text(json.dumps(["yes", "no"]))
    flags = ["--answers", str(tmp_path / "answers.json"), "--first-token-twice", *HEADS]
    assert main(["import", str(tmp_path / "vqa.pth"), "--out", str(tmp_path / "model"), *flags]) == 0
    loaded = AlbefVqa.from_pretrained(tmp_path / "model", device="cpu")
    assert loaded.model.objective.first_token_twice and loaded.max_text_tokens == 25
    assert loaded.answers_fingerprint == read_candidates(tmp_path / "answers.json").fingerprint
    torch.save(official(make_student(), momentum=False), tmp_path / "ALBEF.pth")
    said = refusal(capsys, ["import", str(tmp_path / "ALBEF.pth"), "--out", str(tmp_path / "none"), *flags])
    assert "--answers and --first-token-twice are of vqa" in said


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
