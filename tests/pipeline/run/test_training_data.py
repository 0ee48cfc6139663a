"""What a model was trained on follows it from run to folder to the next run; `evaluate` compares its data with that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from albef import AlbefEntailment
from albef.errors import CheckpointError
from pipeline import cli
from pipeline.data.corpus.manifest import read_manifest
from pipeline.data.corpus.splits import name_hashes
from pipeline.run.training_data import splits_of
from tests.support.entailment_run import entailment_recipe, write_entries
from tests.support.ranks import run_ranks
from tests.support.refusal import refusal
from tests.support.shards import jpeg, picture
from tests.support.tiny_run import tiny_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`start`, after a step on shards, and `entailment`, fine-tuned from it for a step on 24 entries."""
    made = tmp_path_factory.mktemp("trained_on")
    train(made, "start", "pretrain", str(tiny_recipe(made)))
    recipe = str(entailment_recipe(made))
    start = f"--init.model={made / 'start'}"
    train(made, "entailment", "finetune", "snli-ve", recipe, start, "--validation.every_steps=0")
    return made


def run_command(_rank: int, _size: int, command: list[str]) -> int:
    return cli.main(command)


def train(folder: Path, out: str, *command: str) -> None:
    """One step of a run, exported to `out`."""
    run = [*command, "--run-dir", str(folder / f"run_of_{out}"), "--max_steps=1"]
    assert run_ranks(run_command, 1, run, process_group=False, timeout_s=200) == [0]
    assert cli.main(["export", str(folder / f"run_of_{out}"), "--out", str(folder / out)]) == 0


def evaluated(folder: Path, *data: str) -> Any:
    """What the result of `evaluate` has of the training data."""
    out = folder / "result.json"
    assert cli.main(["evaluate", *data, "--out", str(out), "--device", "cpu"]) == 0
    return json.loads(out.read_text())["trained_on"]


def of_entailment(folder: Path, annotations: Path) -> list[str]:
    data = ["--annotations", str(annotations), "--images", str(annotations.parent / "images")]
    return ["snli-ve", "--model", str(folder / "entailment"), *data]


def test_a_model_names_its_own_data_and_that_of_its_start(folder: Path) -> None:
    """The shards by what their manifest has of them, the entries by their file's bytes and their images' names."""
    record = json.loads((folder / "entailment" / "training_data.json").read_text())
    (first, shards), (second, entries) = splits_of(record)
    manifest = read_manifest(folder / "shards")
    assert (first, shards.num_entries, shards.images) == ("pretraining", manifest.num_samples, None)
    assert shards.sha256 == manifest.splits()[0].sha256
    assert (second, entries.name, entries.num_entries) == ("snli-ve", "train.json", 24)
    assert entries.images is not None
    assert sorted(entries.images) == sorted(name_hashes(str(number) for number in range(12)))
    assert record["unrecorded"] == []
    AlbefEntailment.from_pretrained(folder / "entailment", "cpu").save_pretrained(folder / "again")
    assert json.loads((folder / "again" / "training_data.json").read_text()) == record


def test_evaluating_on_training_data_is_reported(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training file itself; another file with three of its images among seven; one with none of them."""
    (shards, same) = (found := evaluated(folder, *of_entailment(folder, folder / "train.json")))["splits"]
    assert same == {"task": "snli-ve", "name": "train.json", "num_entries": 24, "same_file": True, "entries_seen": 24}
    assert shards["entries_seen"] is None and not shards["same_file"] and found["entries_seen"] == 24
    assert "trained on this very file, train.json (snli-ve)" in capsys.readouterr().err
    images = [*range(10, 12), *range(20, 25), 11]
    other = write_entries(tmp_path, 50, "other.json")
    other.write_text(json.dumps([entry for entry in json.loads(other.read_text()) if int(entry["image"]) in images]))
    found = evaluated(folder, *of_entailment(folder, other))
    assert found["entries_seen"] == 4 and not found["splits"][1]["same_file"]
    logged = "4 of 14 entries have an image that the model was trained on (train.json, snli-ve)"
    assert logged in capsys.readouterr().err
    other.write_text(json.dumps([entry for entry in json.loads(other.read_text()) if int(entry["image"]) > 19]))
    assert evaluated(folder, *of_entailment(folder, other))["entries_seen"] == 0
    assert "trained on" not in capsys.readouterr().err


def test_shards_are_recognised_and_a_folder_without_a_record_is_unknown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Retrieval on the shards of pretraining, by a model that names them, and by one that names nothing."""
    shards = ["--data", str(folder / "shards"), "--k-test", "2"]
    found = evaluated(folder, "retrieval", "--model", str(folder / "start"), *shards)
    assert found["splits"][0]["same_file"] and found["entries_seen"] is None
    assert "trained on this very file, shards (pretraining)" in capsys.readouterr().err
    (folder / "start" / "training_data.json").rename(folder / "kept.json")
    assert evaluated(folder, "retrieval", "--model", str(folder / "start"), *shards) is None
    (folder / "kept.json").rename(folder / "start" / "training_data.json")


def test_a_damaged_record_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By `evaluate`, and by the run that would start from it."""
    file = folder / "entailment" / "training_data.json"
    whole = file.read_text()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(jpeg(picture(1)))
    (tmp_path / "one.json").write_text(json.dumps([{"image": "1", "sentence": "a thing", "label": "neutral"}]))
    command = ["evaluate", *of_entailment(folder, tmp_path / "one.json"), "--out", str(tmp_path / "out.json")]
    start = ["finetune", "snli-ve", str(folder / "entailment.yaml"), "--run-dir", str(tmp_path / "run")]
    for damaged in ('{"splits": []}', whole[:-9]):
        file.write_text(damaged)
        assert "training_data.json" in refusal(capsys, [*command, "--device", "cpu"])
    assert "training_data.json" in refusal(capsys, [*start, f"--init.model={folder / 'entailment'}"])
    file.write_text(whole)
    record = json.loads(whole)
    for key, wrong in (("num_entries", "many"), ("sha256", None), ("images", "no base64!")):
        splits = [record["splits"][0] | {key: wrong}]
        with pytest.raises(CheckpointError, match=r"training_data\.json cannot be read"):
            splits_of(record | {"splits": splits})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("val2014/COCO_val2014_000000262148.jpg", "coco/COCO_val2014_000000262148.jpg", True),
        ("4705552913", "flickr30k-images/4705552913.jpg", True),
        ("train/000123.png", "test/000123.png", False),
        ("train/000123.png", "world/train/000123.jpg", True),
        ("VG_100K/2.jpg", "VG_100K_2/2.jpg", False),
    ],
)
def test_images_are_recognised_by_their_names(one: str, other: str, same: bool) -> None:
    """Long names in any folder, short ones with theirs."""
    assert (name_hashes([one]) == name_hashes([other])).all() == same
