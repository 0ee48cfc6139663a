"""Fine-tuning for grounding in real runs: retrieval on phrases and images, killed and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from albef import Albef
from pipeline import cli
from tests.support.finetuning import digest, run, scalars
from tests.support.retrieval_run import grounding_recipe, retrieval_recipe

FLAGS = ("--deepspeed.config=zero2_fp32", "--checkpoint.save_every=2", "--checkpoint.asynchronous=false")


@pytest.mark.timeout(600)
def test_phrases_are_trained_as_retrieval_trains_captions_killed_or_not(tmp_path: Path) -> None:
    """The same pairs as a list of captions: every byte of student, teacher and queue, of a run on two ranks that was
    killed in step 4 and resumed on one. Its export is a model of retrieval, which `evaluate` gives the last scores."""
    retrieval = run(retrieval_recipe(tmp_path, validation={}), "retrieval")
    boxes = [
        {
            "image": f"{n}.jpg",
            "text": f"thing {n}",
            "ref_id": n,
            "box": [5 * n, 4, 20, 16],
            "split": f"test{'AB'[n % 2]}",
        }
        for n in range(5)
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    validation = {"annotations": [str(tmp_path / "boxes.json")], "every_steps": 2, "batch_size": 2}
    recipe = grounding_recipe(tmp_path, validation=validation)
    with pytest.raises(RuntimeError, match="exit code -9"):
        run(recipe, "killed", *FLAGS, ranks=2, kill_in=4)
    assert not (tmp_path / "killed" / "checkpoints" / "step_00000004").exists()
    grounding = run(recipe, "killed", *FLAGS)
    assert digest(grounding) == digest(retrieval)
    assert cli.main(["export", str(grounding), "--out", str(tmp_path / "model")]) == 0
    assert type(Albef.from_pretrained(tmp_path / "model", "cpu")).__name__ == "AlbefRetrieval"
    data = ["--annotations", str(tmp_path / "boxes.json"), "--images", str(tmp_path / "images"), "--batch-size", "2"]
    command = ["evaluate", "grounding", "--model", str(tmp_path / "model"), *data, "--device", "cpu"]
    assert cli.main([*command, "--out", str(tmp_path / "found.json")]) == 0
    found, scores = json.loads((tmp_path / "found.json").read_text()), scalars(grounding, "val/")
    assert sorted(scores) == [0, 2, 4] and {"val/pointing", "val/accuracy_testA"} <= scores[4].keys()
    assert scores[4] == {name: found[name.removeprefix("val/")] for name in scores[4]}
    assert "weakly supervised grounding" in (tmp_path / "model" / "README.md").read_text()


def test_a_list_without_phrases_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A list of retrieval has captions, and no text; `finetune retrieval` names the command of the recipe's task."""
    retrieval_recipe(tmp_path)
    recipe = str(retrieval_recipe(tmp_path, task="grounding", validation={}))
    assert cli.main(["check", recipe, "--run-dir", str(tmp_path / "new")]) == 2
    assert "entry 0 has no text" in capsys.readouterr().err
    assert cli.main(["finetune", "retrieval", recipe, "--run-dir", str(tmp_path / "new")]) == 2
    assert "finetune grounding" in capsys.readouterr().err


def test_an_image_with_two_phrases_has_one_number(tmp_path: Path) -> None:
    """The image's path is its identity, so that two phrases of it are no negatives of each other."""
    from pipeline.config.resolve import load_config
    from pipeline.tasks.grounding.maker import GROUNDING

    recipe = retrieval_recipe(tmp_path, task="grounding", validation={})
    rows = [{"image": f"{image}.jpg", "text": f"thing {n}", "ref_id": 7} for n, image in enumerate((3, 1, 3))]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    pairs: Any = GROUNDING.corpus(load_config(recipe, [f"--data.annotations={tmp_path / 'rows.json'}"]))
    assert [json.loads(record)[1]["image_id"] for record in pairs.records.to_pylist()] == [0, 1, 0]
