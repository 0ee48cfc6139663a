"""A fine-tuned model out of its checkpoint and back: folders, official layout, evaluation on any number of ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from albef import Albef, AlbefEntailment
from albef.errors import CheckpointError
from albef.inputs.snli_ve_batch import CLASSES
from albef.weights.official import read_official
from pipeline import cli
from tests.support.entailment_run import entailment_recipe
from tests.support.finetuning import pretrained_folder, run_command, trained_and_exported
from tests.support.ranks import run_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps in bf16 on two ranks at ZeRO 1, exported as student and as teacher."""
    made = tmp_path_factory.mktemp("export")
    return trained_and_exported(made, "snli-ve", entailment_recipe(made))


def images_of(folder: Path, entries: list[dict[str, str]]) -> list[Image.Image]:
    return [Image.open(folder / "images" / f"{entry['image']}.jpg") for entry in entries]


def test_folders_hold_the_student_and_the_teacher(folder: Path) -> None:
    """The teacher's are its saved averages, to the bit; config.json names the class; another class refuses it."""
    saved = load_file(folder / "run" / "checkpoints" / "step_00000002" / "teacher.safetensors")
    student, teacher = (AlbefEntailment.from_pretrained(folder / kind, "cpu") for kind in ("student", "teacher"))
    theirs, ours = teacher.model.state_dict(), student.model.state_dict()
    assert all(torch.equal(theirs[name], weight) for name, weight in saved.items()) and theirs.keys() == saved.keys()
    assert any(not torch.equal(ours[name], weight) for name, weight in saved.items())
    assert json.loads((folder / "student" / "config.json").read_text())["model_type"] == "albef_entailment"
    with pytest.raises(CheckpointError, match="of a model of the type 'albef_entailment', not albef"):
        Albef.from_pretrained(folder / "student")
    with pytest.raises(CheckpointError, match="of a model of the type 'albef', not albef_entailment"):
        AlbefEntailment.from_pretrained(pretrained_folder(folder / "other"))
    card = (folder / "student" / "README.md").read_text()
    assert "AlbefEntailment.from_pretrained" in card and "visual entailment" in card


def test_a_saved_model_predicts_as_before(folder: Path, tmp_path: Path) -> None:
    """Probabilities of pairs, the same after another save and load; no pairs give none, uneven ones an error."""
    model = AlbefEntailment.from_pretrained(folder / "student", "cpu")
    entries = json.loads((folder / "dev.json").read_text())[:3]
    images, sentences = images_of(folder, entries), [entry["sentence"] for entry in entries]
    found = model.predict(images, sentences)
    assert found.shape == (3, 3) and torch.allclose(found.sum(dim=1), torch.ones(3))
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(AlbefEntailment.from_pretrained(tmp_path / "again", "cpu").predict(images, sentences), found)
    assert model.predict([], []).shape == (0, 3)
    with pytest.raises(ValueError, match="3 images and 1 sentences"):
        model.predict(images, sentences[0])


def test_the_official_file_holds_both_and_starts_another_run(folder: Path) -> None:
    """Read back, student and teacher are those of the folders; `check` accepts it as a start."""
    out = folder / "official"
    assert cli.main(["export", str(folder / "run"), "--out", str(out), "--format", "official"]) == 0
    read = read_official(out / "albef.pth", vision_heads=2, text_heads=2)
    for kind, state in (("student", read.student), ("teacher", read.teacher)):
        weights = load_file(folder / kind / "model.safetensors")
        assert state is not None and state.keys() == weights.keys()
        assert all(torch.equal(state[name], weight) for name, weight in weights.items())
    for start in (out / "albef.pth", folder / "teacher"):
        flags = ["--run-dir", str(folder / "new"), "--init.model", str(start)]
        assert cli.main(["check", str(folder / "entailment.yaml"), *flags]) == 0


def test_evaluation_is_of_every_entry_once_on_any_number_of_ranks(folder: Path, tmp_path: Path) -> None:
    """Seven entries on one rank and on three: the same answers and accuracy, and those that `predict` gives."""

    def evaluated(ranks: int) -> dict[str, Any]:
        out = tmp_path / f"{ranks}.json"
        data = ["--annotations", str(folder / "dev.json"), "--images", str(folder / "images")]
        command = ["evaluate", "snli-ve", "--model", str(folder / "student"), *data, "--out", str(out)]
        command += ["--batch-size", "2", "--device", "cpu"]
        assert run_ranks(run_command, ranks, command, process_group=False) == [0] * ranks
        return json.loads(out.read_text())

    alone = evaluated(1)
    assert evaluated(3) == alone
    entries = json.loads((folder / "dev.json").read_text())
    sentences = [entry["sentence"] for entry in entries]
    best = AlbefEntailment.from_pretrained(folder / "student", "cpu").predict(images_of(folder, entries), sentences)
    predicted = [CLASSES[index] for index in best.argmax(dim=1).tolist()]
    assert alone["answers"] == {str(number): label for number, label in enumerate(predicted)}
    right = sum(entry["label"] == label for entry, label in zip(entries, predicted, strict=True))
    assert alone["accuracy"] == pytest.approx(100 * right / 7) and alone["majority"] == pytest.approx(300 / 7)
    assert alone["labels"] == {"contradiction": 3, "neutral": 3, "entailment": 1} and alone["num_entries"] == 7
