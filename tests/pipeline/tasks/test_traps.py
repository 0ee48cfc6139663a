"""Mistakes that users of other code met with fine-tuned models, and that no other test here would find.

docs/traps.md has all fifteen of them with the tests that do; `test_docs.py` checks that these exist.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from albef.downstream.alignment import AlbefForAlignment
from albef.downstream.nlvr2 import AlbefForNlvr2
from albef.downstream.retrieval import AlbefForRetrieval
from albef.downstream.snli_ve import AlbefForEntailment
from albef.downstream.vqa import AlbefForVqa
from albef.errors import CheckpointError
from albef.weights.official import to_official
from albef.weights.tensor_file import write_pickle
from pipeline.config.resolve import load_config
from pipeline.engine.distributed import World
from pipeline.tasks.finetuning.starting_weights import start_from_model
from pipeline.tasks.snli_ve.annotations import FORMAT
from pipeline.tasks.vqa.task import Vqa
from tests.support.small_model import small_config
from tests.support.vqa_run import ANSWERS, vqa_recipe

CONFIG = small_config()
KINDS: dict[str, Callable[[], nn.Module]] = {
    "retrieval": lambda: AlbefForRetrieval(CONFIG),
    "vqa": lambda: AlbefForVqa(CONFIG),
    "snli-ve": lambda: AlbefForEntailment(CONFIG),
    "nlvr2": lambda: AlbefForNlvr2(CONFIG),
    "text assignment": lambda: AlbefForAlignment(CONFIG),
}
STARTS = {("text assignment", "nlvr2")}
"""Official files of one task that a model of another starts from."""


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an official file of each kind."""
    folder = tmp_path_factory.mktemp("official")
    for kind, build in KINDS.items():
        write_pickle(folder / f"{kind}.pth", {"model": to_official(build().state_dict(), None, None)})
    return folder


@pytest.mark.parametrize("task", list(KINDS))
def test_a_model_starts_from_no_file_of_another_task(task: str, official: Path) -> None:
    """Traps 9 to 11: its own kind gives all weights, another one an error that names both; none is loaded in part."""
    for kind in KINDS:
        model = KINDS[task]()
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        if kind == task or (kind, task) in STARTS:
            report = start_from_model(model, CONFIG, str(official / f"{kind}.pth"))
            assert not report.created or (kind, task) in STARTS
            continue
        with pytest.raises(CheckpointError, match="does not start from it"):
            start_from_model(model, CONFIG, str(official / f"{kind}.pth"))
        assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_a_checkpoint_is_no_start_and_the_way_out_is_named(tmp_path: Path) -> None:
    """Trap 11: DeepSpeed's folder of a run is exported first."""
    (tmp_path / "step_00000001").mkdir()
    (tmp_path / "step_00000001" / "mp_rank_00_model_states.pt").write_bytes(b"")
    with pytest.raises(CheckpointError) as error:
        start_from_model(KINDS["vqa"](), CONFIG, str(tmp_path / "step_00000001"))
    assert "pipeline export" in (error.value.hint or "")


def test_the_text_premise_is_not_read() -> None:
    """Trap 14: SNLI's two sentences beside the image's name change nothing of an entry."""
    entry = {"image": "4705552913", "sentence": "two women embrace", "label": "neutral"}
    beside = {"sentence1": "Two women are hugging.", "sentence2": "They sleep.", "gold_label": "contradiction"}
    assert FORMAT.check(entry | beside) == FORMAT.check(entry)


class Constant(nn.Module):
    """Gives every question one answer."""

    def __init__(self, answer: int) -> None:
        super().__init__()
        self.answer = answer

    def rank(self, images: torch.Tensor, *_: Any) -> SimpleNamespace:
        return SimpleNamespace(candidates=torch.full((len(images), 1), self.answer))


def test_a_decoder_that_gives_one_answer_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Trap 10 for VQA: from the step on that the recipe names, with both figures and the answer; not before."""
    recipe = vqa_recipe(tmp_path)
    run = load_config(recipe, ["--validation.majority_after_steps=5"])
    alone = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
    validation = Vqa.of_run(run, alone, torch.float32).validation
    assert validation is not None
    people = [one["answer"] for one in json.loads((tmp_path / "val.json").read_text())]
    answers = [answer for given in people for answer in given]
    most = max(ANSWERS, key=answers.count)
    for steps_done in (4, 5):
        model: Any = Constant(validation.candidates.answers.index(most))
        values = validation.run(model, steps_done=steps_done, progress=lambda *_: None)
        assert values["val/accuracy"] == values["val/majority"] > 0
        assert (f"always answering {most} would be in" in caplog.text) == (steps_done == 5)
