"""Fine-tuning on VQA in real runs: one rank, and killed and resumed on two; its batches, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from albef import AlbefVqa
from albef.errors import CheckpointError, DataError
from albef.inputs.vqa_batch import whole_answers
from pipeline import cli
from pipeline.data.annotations.corpus import read_annotations
from pipeline.data.annotations.entries import Format
from pipeline.engine.distributed import World
from pipeline.task import LaneStep
from pipeline.tasks.vqa.annotations import QUESTIONS, SCORED, TRAINING, read_candidates
from pipeline.tasks.vqa.ranking import answer_list
from tests.support.finetuning import digest, make_task, run, scalars
from tests.support.ranks import run_ranks
from tests.support.training_runs import newest
from tests.support.vqa_run import ANSWERS, vqa_recipe, write_questions

ALONE = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, recipe and pretrained model."""
    made = tmp_path_factory.mktemp("vqa")
    vqa_recipe(made)
    return made


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """Six steps on one rank, without sharding."""
    return run(folder / "vqa.yaml", "alone")


def test_accuracy_is_of_every_question_by_type(alone: Path) -> None:
    """Seven questions, before the first step, every third and after the last; the checkpoint names the candidates."""
    accuracy = scalars(alone, "val/")
    assert sorted(accuracy) == [0, 3, 6]
    names = {"accuracy", "accuracy_yes_no", "accuracy_number", "accuracy_other", "majority"}
    assert all({name.removeprefix("val/") for name in values} == names for values in accuracy.values())
    shape = json.loads((newest(alone) / "model_config.json").read_text())
    assert shape["task"] == "vqa" and re.fullmatch("[0-9a-f]{16}", shape["answers_fingerprint"])
    ramp = [values["train/alpha"] for values in scalars(alone, "train/alpha").values()]
    assert ramp == pytest.approx([0, 0.4 / 3, 0.8 / 3, 0.4, 0.4, 0.4])


@pytest.mark.timeout(600)
def test_killed_on_one_rank_and_finished_on_two(folder: Path, alone: Path) -> None:
    """kill -9 in step 4, saves every second step, the rest at ZeRO 2: every byte of student and teacher, and the
    accuracy, though two ranks do not divide seven questions."""
    saving = ["--checkpoint.save_every=2", "--checkpoint.asynchronous=false"]
    with pytest.raises(RuntimeError, match="exit code -9"):
        run(folder / "vqa.yaml", "killed", *saving, kill_in=4)
    other = run(folder / "vqa.yaml", "killed", *saving, "--deepspeed.config=zero2_fp32", ranks=2)
    assert digest(other) == digest(alone)
    assert scalars(other, "val/")[6] == scalars(alone, "val/")[6]


def evaluate(_rank: int, _size: int, command: list[str]) -> int:
    return cli.main(command)


@pytest.mark.timeout(600)
def test_the_exported_model_answers_as_in_training_and_with_its_own_list_only(
    folder: Path, alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`export`, then `evaluate vqa` on one rank and on three: the accuracy of the run's last validation, the server's
    file with every question once, and the answers that `AlbefVqa.rank` gives. What is printed names how answers were
    ranked, and the server's file. Without the people's answers there is no accuracy; another list is refused."""
    model = tmp_path / "model"
    assert cli.main(["export", str(alone), "--out", str(model)]) == 0
    data = ["--model", str(model), "--images", str(folder / "images"), "--device", "cpu", "--batch-size", "2"]
    own = ["--answers", str(folder / "answers.json"), "--k-test", "4"]
    labelled = [*data, *own, "--annotations", str(folder / "val.json")]
    one, three, test = (tmp_path / f"{name}.json" for name in ("one", "three", "test"))
    assert cli.main(["evaluate", "vqa", *labelled, "--out", str(one)]) == 0
    shown = capsys.readouterr().out
    assert "best of 4 of 6 candidates, first token counted once, 32 px" in shown and "accuracy of number" in shown
    assert f"{tmp_path / 'one_server.json'} is what the VQA server takes" in shown
    command = ["evaluate", "vqa", *labelled, "--out", str(three)]
    assert run_ranks(evaluate, 3, command, process_group=False) == [0] * 3
    found, server = (json.loads((tmp_path / f"one{end}.json").read_text()) for end in ("", "_server"))
    assert json.loads(three.read_text()) == found
    assert json.loads((tmp_path / "three_server.json").read_text()) == server
    trained = scalars(alone, "val/")[6]
    assert {name: found[name.removeprefix("val/")] for name in trained} == trained
    assert (found["k_test"], found["num_answers"], found["num_entries"]) == (4, 6, len(server))

    questions = json.loads((folder / "val.json").read_text())
    assert [one["question_id"] for one in server] == [one["question_id"] for one in questions]
    vqa = AlbefVqa.from_pretrained(model, "cpu")
    images = [Image.open(folder / "images" / one["image"]) for one in questions]
    ranked = vqa.rank(images, [one["question"] for one in questions], ANSWERS, k=4)
    assert [best[0][0] for best in ranked] == [one["answer"] for one in server]
    assert all(len(best) == 4 and best == sorted(best, key=lambda pair: -pair[1]) for best in ranked)
    assert len(vqa.answer(images[0], questions[0]["question"])) == 1

    test.write_text(json.dumps([{key: one[key] for key in ("question_id", "question", "image")} for one in questions]))
    unlabelled = [*data, *own, "--annotations", str(test), "--out", str(tmp_path / "unknown.json")]
    assert cli.main(["evaluate", "vqa", *unlabelled]) == 0
    assert "accuracy" not in json.loads((tmp_path / "unknown.json").read_text())
    assert json.loads((tmp_path / "unknown_server.json").read_text()) == server
    (tmp_path / "other.json").write_text(json.dumps([*ANSWERS, "four"]))
    capsys.readouterr()
    assert cli.main(["evaluate", "vqa", *labelled, "--answers", str(tmp_path / "other.json"), "--out", str(one)]) == 2
    assert vqa.answers_fingerprint and vqa.answers_fingerprint in capsys.readouterr().err


def made(folder: Path, *overrides: str) -> Any:
    """The task of a run, without an engine."""
    return make_task(folder / "vqa.yaml", *overrides)


def test_another_answer_list_is_refused(folder: Path, tmp_path: Path) -> None:
    """Also none; the same answers in another order are the same list."""
    task = made(folder)
    state = task.state()
    (tmp_path / "order.json").write_text(json.dumps(ANSWERS[::-1]))
    made(folder, f"--data.answers={tmp_path / 'order.json'}").load_state(state)
    (tmp_path / "other.json").write_text(json.dumps([*ANSWERS, "four"]))
    with pytest.raises(CheckpointError, match=task.candidates.fingerprint):
        made(folder, f"--data.answers={tmp_path / 'other.json'}").load_state(state)
    with pytest.raises(CheckpointError, match=r"data\.answers is null"):
        made(folder, "--data.answers=null", "--validation.annotations=[]").load_state(state)


def test_check_shows_a_recipe_and_what_would_stop_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Steps and memory without a GPU; each error at once."""
    recipe = str(folder / "vqa.yaml")
    assert cli.main(["check", recipe, "--run-dir", str(folder / "new")]) == 0
    shown = capsys.readouterr().out
    assert "24 samples" in shown and re.search(r"teacher +0\.\d\d GiB", shown)
    assert cli.main(["check", recipe, "--run-dir", str(folder / "new"), "--data.answers=gone.json"]) == 2
    assert "answer list gone.json: No such file" in capsys.readouterr().err
    assert cli.main(["check", recipe, "--data.answers=null"]) == 2
    assert "data.answers no candidates to rank" in capsys.readouterr().err


def batch_of(task: Any, folder: Path, numbers: range) -> Any:
    """The micro-batch of these questions."""
    path = write_questions(folder, numbers)
    corpus = read_annotations([str(path)], [str(folder / "images")], TRAINING)
    reader, refs = corpus.reader(), corpus.locate(np.arange(len(numbers)))
    examples = [task.batcher.example(reader.read(ref), seed=0, epoch=0) for ref in refs]
    return task.batcher.batch(examples, seed=0, epoch=0, step=0, lane=0)


def test_answers_weigh_their_frequency_and_ten_questions_are_learned_by_heart(folder: Path, tmp_path: Path) -> None:
    """Weights sum to 1 and 0.5 for Visual Genome; the words follow [CLS] and end in [SEP]; 90 steps of AdamW come near
    the entropy of the people's answers, below which no model gets; and the likeliest answer is the most frequent."""
    task = made(folder, "--objective.distill=false", "--model.hidden_dropout=0", "--model.attention_dropout=0")
    batch = batch_of(task, tmp_path, range(10))
    assert batch.captions[0] == "what is it number 0" and batch.keys[0] == "100"
    assert batch.answer_question.tolist() == [0, 1, 1, 1, 2, 2, 3, 3, 4, 5, 5, 5, 6, 7, 7, 7, 8, 8, 9]
    weights = batch.answer_weights.tolist()
    assert weights[:9] == pytest.approx([1, 0.8, 0.1, 0.1, 0.8, 0.2, 0.9, 0.1, 0.5])
    tokenizer = task.batcher.tokenizer
    first = batch.answer_positions // batch.answer_ids.shape[1] == 0
    assert tokenizer.pieces(batch.answer_labels[first]) == ["yes", "[SEP]"]
    assert tokenizer.pieces(batch.answer_ids[0, :2]) == ["[CLS]", "yes"]
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-2)
    at = LaneStep(step=0, epoch=0, lane=0, num_lanes=1, steps_per_epoch=1)
    for _ in range(90):
        losses = task.losses(task.model, batch, at)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
    entropy = -sum(weight * np.log(weight) for weight in weights if weight != 0.5) / 10
    assert entropy - 1e-4 < losses.values.item() < entropy + 0.1
    candidates = answer_list(read_candidates(folder / "answers.json"), tokenizer, task.model.config)
    image = batch.normalised().image
    ranked = task.model.eval().rank(image, batch.question_ids, batch.question_mask, candidates, k=6)
    assert ranked.candidates[:, 0].tolist() == [number % 5 for number in range(10)]


def test_a_long_answer_keeps_its_end(folder: Path) -> None:
    """Cut before [SEP], and padded after it."""
    tokenizer = made(folder, "--init.model=null").batcher.tokenizer
    ids, mask = whole_answers(["a red ball on a box", "red"], tokenizer, max_tokens=4)
    assert [tokenizer.pieces(row) for row in ids] == [
        ["[CLS]", "a", "red", "[SEP]"],
        ["[CLS]", "red", "[SEP]", "[PAD]"],
    ]
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


@pytest.mark.parametrize(
    ("form", "changes", "fault"),
    [
        (TRAINING, {"dataset": "gqa"}, "is of the dataset gqa, which is neither vqa nor vg"),
        (TRAINING, {"answer": "yes"}, r"has 'yes' as answer, which is no list of texts"),
        (TRAINING, {"answer": []}, r"has \[\] as answer"),
        (TRAINING, {"dataset": "vg"}, r"as answer, which is no text"),
        (TRAINING, {"question_id": "7"}, "has '7' as question_id, which is no whole number"),
        (TRAINING, {"question": 3}, "has 3 as question, which is no text"),
        (TRAINING, {"image": "gone.jpg"}, "names the image gone.jpg"),
        (QUESTIONS, {"question_id": None}, "has None as question_id"),
        (SCORED, {"answer": ["yes"] * 3}, "has 3 answers, and the accuracy needs at least 4"),
        (SCORED, {"answer_type": "colour"}, "has the answer_type colour, which is none of yes/no, number, other"),
    ],
)
def test_faults_of_entries(folder: Path, tmp_path: Path, form: Format, changes: dict[str, Any], fault: str) -> None:
    """Each by its number and what is wrong."""
    whole = json.loads((folder / "val.json").read_text())
    path = tmp_path / "faulty.json"
    path.write_text(json.dumps([whole[0], whole[1] | changes]))
    with pytest.raises(DataError, match=f"1 of 2 entries cannot be used:\n  entry 1 .*{fault}"):
        read_annotations([str(path)], [str(folder / "images")], form)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"yes": 0}', "is no list"),
        ("[1]", "is no list"),
        ("[", "cannot be read"),
        ('["a", "b", "a"]', "has a 2 times"),
    ],
)
def test_faults_of_the_answer_list(tmp_path: Path, text: str, fault: str) -> None:
    """Another kind of JSON, and an answer that is there twice."""
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(DataError, match=fault):
        read_candidates(tmp_path / "list.json")
