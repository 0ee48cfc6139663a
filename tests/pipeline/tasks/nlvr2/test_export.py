"""A fine-tuned model of NLVR2 out of its checkpoint and back: folders, official layout, evaluation on several ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from albef import Albef, AlbefNlvr2
from albef.errors import CheckpointError
from albef.weights.official import read_official
from pipeline import cli
from tests.support.finetuning import run_command, trained_and_exported
from tests.support.nlvr2_run import nlvr2_recipe
from tests.support.ranks import run_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps in bf16 on two ranks at ZeRO 1, exported as student and as teacher."""
    made = tmp_path_factory.mktemp("export")
    return trained_and_exported(made, "nlvr2", nlvr2_recipe(made))


def images_of(folder: Path, entries: list[dict[str, Any]], which: int) -> list[Image.Image]:
    return [Image.open(folder / "images" / entry["images"][which]) for entry in entries]


def test_folders_hold_the_student_and_the_teacher(folder: Path) -> None:
    """The teacher's are its saved averages, to the bit; another class refuses the folder, and names its own."""
    saved = load_file(folder / "run" / "checkpoints" / "step_00000002" / "teacher.safetensors")
    student, teacher = (AlbefNlvr2.from_pretrained(folder / kind, "cpu") for kind in ("student", "teacher"))
    theirs, ours = teacher.model.state_dict(), student.model.state_dict()
    assert all(torch.equal(theirs[name], weight) for name, weight in saved.items()) and theirs.keys() == saved.keys()
    assert any(not torch.equal(ours[name], weight) for name, weight in saved.items())
    assert json.loads((folder / "student" / "config.json").read_text())["model_type"] == "albef_nlvr2"
    with pytest.raises(CheckpointError, match="of a model of the type 'albef_nlvr2', not albef") as refused:
        Albef.from_pretrained(folder / "student")
    assert refused.value.hint == "load it with albef.AlbefNlvr2"
    card = (folder / "student" / "README.md").read_text()
    assert "AlbefNlvr2.from_pretrained" in card and "NLVR2" in card
    assert cli.main(["export", str(folder / "run"), "--out", str(folder / "student"), "--overwrite"]) == 0


def test_a_saved_model_compares_two_images_in_their_order(folder: Path, tmp_path: Path) -> None:
    """Probabilities, the same after another save and load, others for exchanged images; uneven numbers are an error."""
    model = AlbefNlvr2.from_pretrained(folder / "student", "cpu")
    entries = json.loads((folder / "dev.json").read_text())[1:6:2]  # two different images each
    first, second = (images_of(folder, entries, which) for which in (0, 1))
    statements = [entry["sentence"] for entry in entries]
    found = model.compare(first, second, statements)
    assert found.shape == (3,) and bool(((found > 0) & (found < 1)).all())
    model.save_pretrained(tmp_path / "again")
    again = AlbefNlvr2.from_pretrained(tmp_path / "again", "cpu")
    assert torch.equal(again.compare(first, second, statements), found)
    assert not torch.equal(model.compare(second, first, statements), found)
    one = model.compare(first[1], second[1], statements[1])
    assert torch.allclose(one, found[1:2], atol=1e-6)  # padded to another length: fp32 rounding
    assert model.compare([], [], []).shape == (0,)
    with pytest.raises(ValueError, match="3 first images, 1 second images and 3 texts"):
        model.compare(first, second[0], statements)


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
        assert cli.main(["check", str(nlvr2_recipe(folder)), *flags]) == 0


def test_evaluation_is_of_every_statement_once_on_any_number_of_ranks(folder: Path, tmp_path: Path) -> None:
    """Seven statements on one rank and on three: the same answers and accuracy, and those that `compare` gives."""

    def evaluated(ranks: int) -> dict[str, Any]:
        out = tmp_path / f"{ranks}.json"
        data = ["--annotations", str(folder / "dev.json"), "--images", str(folder / "images")]
        command = ["evaluate", "nlvr2", "--model", str(folder / "student"), *data, "--out", str(out)]
        command += ["--batch-size", "2", "--device", "cpu"]
        assert run_ranks(run_command, ranks, command, process_group=False) == [0] * ranks
        return json.loads(out.read_text())

    alone = evaluated(1)
    assert evaluated(3) == alone
    entries = json.loads((folder / "dev.json").read_text())
    first, second = (images_of(folder, entries, which) for which in (0, 1))
    model = AlbefNlvr2.from_pretrained(folder / "student", "cpu")
    true = (model.compare(first, second, [entry["sentence"] for entry in entries]) > 0.5).tolist()
    assert alone["answers"] == {str(number): str(answer).lower() for number, answer in enumerate(true)}
    right = sum(entry["label"] == str(answer) for entry, answer in zip(entries, true, strict=True))
    assert alone["accuracy"] == pytest.approx(100 * right / 7) and alone["majority"] == pytest.approx(400 / 7)
    assert alone["labels"] == {"false": 4, "true": 3} and alone["num_entries"] == 7 and alone["task"] == "nlvr2"
