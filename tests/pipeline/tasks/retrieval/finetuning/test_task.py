"""Fine-tuning for retrieval in real runs: one rank and two, killed and resumed; its pairs, positives and start."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from albef import Albef
from albef.errors import CheckpointError, DataError
from albef.model import AlbefForPretraining
from albef.objective.queue import NO_ID, FeatureQueue
from albef.weights.official import read_official, to_official
from pipeline import cli
from pipeline.config.resolve import load_config
from pipeline.engine.distributed import World
from pipeline.task import LaneStep
from pipeline.tasks.retrieval.finetuning.maker import RETRIEVAL
from tests.support.finetuning import digest, make_task, run, scalars, shape
from tests.support.retrieval_run import retrieval_recipe

ALONE = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, recipe and pretrained model."""
    made = tmp_path_factory.mktemp("retrieval")
    retrieval_recipe(made)
    return made


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """Four steps on one rank, without sharding."""
    return run(folder / "tuned.yaml", "alone")


def test_recalls_are_logged_and_alpha_rises_over_the_first_epoch(alone: Path) -> None:
    """Before the first step, every second and after the last; an epoch has three steps."""
    recalls = scalars(alone, "val/")
    assert sorted(recalls) == [0, 2, 4]
    assert {"val/i2t_recall_at_1", "val/t2i_recall_at_10", "val/itc_i2t_recall_at_1"} <= recalls[4].keys()
    alpha = [values["train/alpha"] for _, values in sorted(scalars(alone, "train/alpha").items())]
    assert alpha == pytest.approx([0, 0.4 / 3, 0.8 / 3, 0.4])
    assert {"train/loss", "train/loss_itc", "train/loss_itm", "train/temperature"} <= scalars(alone, "train/")[4].keys()


@pytest.mark.timeout(600)
def test_killed_on_two_ranks_and_resumed_on_one_is_as_never_stopped(folder: Path, alone: Path) -> None:
    """ZeRO 2, saved at 2, kill -9 in step 4: every byte of student, teacher and queue, and the recalls."""
    flags = ("--deepspeed.config=zero2_fp32", "--checkpoint.save_every=2", "--checkpoint.asynchronous=false")
    with pytest.raises(RuntimeError, match="exit code -9"):
        run(folder / "tuned.yaml", "killed", *flags, ranks=2, kill_in=4)
    assert not (folder / "killed" / "checkpoints" / "step_00000004").exists()
    other = run(folder / "tuned.yaml", "killed", *flags)
    assert digest(other) == digest(alone) and "queue/ids" in digest(other)
    assert scalars(other, "val/")[4] == scalars(alone, "val/")[4]


def made(folder: Path, *overrides: str) -> Any:
    """The task of a run, without an engine."""
    return make_task(folder / "tuned.yaml", *overrides)


def batch_of(folder: Path, task: Any, indices: list[int]) -> Any:
    """The training pairs at `indices` as a lane's batch."""
    pairs: Any = RETRIEVAL.corpus(load_config(folder / "tuned.yaml"))
    reader = pairs.reader()
    refs = pairs.locate(np.array(indices))
    examples = [task.batcher.example(reader.read(ref), seed=0, epoch=0) for ref in refs]
    return task.batcher.batch(examples, seed=0, epoch=0, step=0, lane=0)


def test_all_captions_of_an_image_are_positives_in_batch_and_queue(folder: Path) -> None:
    """From the list to the loss: against a contrastive loss written out in float64."""
    task = made(folder, "--model.hidden_dropout=0", "--model.attention_dropout=0", "--objective.distill=false")
    at = LaneStep(step=0, epoch=0, lane=0, num_lanes=1, steps_per_epoch=3)
    first = batch_of(folder, task, [0, 4, 6, 8])
    task.losses(task.model, first, at)
    task.advance(None, steps_done=1)
    assert task.queue.ids.tolist() == [0, 2, 3, 4] + [NO_ID] * 16
    batch = batch_of(folder, task, [0, 1, 2, 5])  # twice image 0, image 1, and image 2, whose other text is queued
    assert batch.image_ids.tolist() == [0, 0, 1, 2] and batch.captions[:2] == ["one of thing 0", "two of thing 0"]

    ids = torch.cat([batch.image_ids, task.queue.ids])
    queue = {"image": task.queue.image.double(), "text": task.queue.text.double()}
    loss_itc = task.losses(task.model, batch, at).values[1].item()
    task.discard()
    moved = batch.normalised()
    features = {}
    for name, model in (("student", task.model), ("teacher", task.teacher.model)):
        image = model.encode_image(moved.image)[1].detach().double()
        features[name] = {"image": image, "text": model.encode_text(moved.input_ids, moved.attention_mask)[1].double()}
    expected = 0.0
    for query, key in (("image", "text"), ("text", "image")):
        keys = torch.cat([features["teacher"][key], queue[key]])
        logits = features["student"][query] @ keys.T / task.model.temperature.double()
        right = (batch.image_ids[:, None] == ids).double()
        targets = right / right.sum(dim=1, keepdim=True)
        assert targets[0].count_nonzero() == 3 and targets[3].count_nonzero() == 2
        expected += -(F.log_softmax(logits, dim=1) * targets).sum(dim=1).mean().item() / 2
    assert loss_itc == pytest.approx(expected, rel=1e-5)


def test_captions_of_an_image_are_never_negatives_of_each_other(folder: Path) -> None:
    """Twice image 0 and once image 1: each draw gives one of the four matching losses whose negatives are of another
    image, and each of them is drawn."""
    task = made(folder, "--model.hidden_dropout=0", "--model.attention_dropout=0")
    with torch.no_grad():
        task.model.itm_head.weight.mul_(100)  # with a new head all losses are nearly the same
    batch = batch_of(folder, task, [0, 1, 2]).normalised()
    assert batch.image_ids.tolist() == [0, 0, 1]
    targets, alpha = task.teacher.targets(batch), torch.tensor(0.0, dtype=torch.float64)

    def matching_loss(draws: torch.Tensor, negatives: Any = None) -> float:
        drawn = dataclasses.replace(batch, negative_draws=draws)
        with torch.no_grad():
            return float(task.model(drawn, targets, task.queue, alpha, negative_indices=negatives).itm)

    given = [(torch.tensor([2, 2, image]), torch.tensor([2, 2, text])) for image in (0, 1) for text in (0, 1)]
    allowed = [matching_loss(batch.negative_draws, negatives) for negatives in given]
    assert len({round(loss, 5) for loss in allowed}) == 4, "the choices differ"
    generator = torch.Generator().manual_seed(0)
    found = set()
    for _ in range(24):
        loss = matching_loss(torch.rand(2, 3, generator=generator, dtype=torch.float64))
        nearest = min(range(4), key=lambda number: abs(allowed[number] - loss))
        assert loss == pytest.approx(allowed[nearest], rel=1e-6)
        found.add(nearest)
    assert found == set(range(4))


def test_each_caption_is_a_pair_and_each_image_has_a_number(folder: Path, tmp_path: Path) -> None:
    """Rows and lists, with ids and without; one id in two files is one image; a caption of dots is left out."""
    lists = {
        "a.json": [
            {"image": "0.jpg", "caption": ["one", "...", "three"], "image_id": 7},
            {"image": "1.jpg", "caption": "x"},
        ],
        "b.json": [{"image": "0.jpg", "caption": "four", "image_id": 7}, {"image": "1.jpg", "caption": ["y"]}],
    }
    for name, rows in lists.items():
        (tmp_path / name).write_text(json.dumps(rows))
    flag = f"--data.annotations={tmp_path / 'a.json'},{tmp_path / 'b.json'}"
    pairs: Any = RETRIEVAL.corpus(load_config(folder / "tuned.yaml", [flag]))
    refs = pairs.locate(np.arange(pairs.num_samples))
    assert [(ref.name, *ref.fields()[1].values()) for ref in refs] == [
        ("a/0.0", "one", 0),
        ("a/0.2", "three", 0),
        ("a/1", "x", 1),
        ("b/0", "four", 0),
        ("b/1", "y", 1),
    ]
    assert pairs.shard_sizes.tolist() == [3, 2]


def test_faults_of_a_list_are_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All entries that are wrong at once; one id with two images, whose pairs would be false positives."""
    image = {"image": "0.jpg"}
    wrong = [
        image,
        image | {"caption": []},
        image | {"caption": "a", "image_id": 1.5},
        {"image": "9x.jpg", "caption": "a"},
    ]
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    flags = ["--run-dir", str(tmp_path / "new"), f"--data.annotations={tmp_path / 'wrong.json'}"]
    assert cli.main(["check", str(folder / "tuned.yaml"), *flags]) == 2
    shown = capsys.readouterr().err
    for fault in (
        "entry 0 has no caption",
        "entry 1 has [] as caption, which is no text and no list of texts",
        "entry 2 has 1.5 as image_id, which is no text and no whole number",
        "entry 3 names the image 9x.jpg",
    ):
        assert fault in shown
    twice = [{"image": f"{n}.jpg", "caption": "a", "image_id": 5} for n in range(2)]
    (tmp_path / "twice.json").write_text(json.dumps(twice))
    with pytest.raises(DataError, match=r"entries 0 and 1 have the image_id 5 with the images 0\.jpg and 1\.jpg"):
        RETRIEVAL.corpus(load_config(folder / "tuned.yaml", [f"--data.annotations={tmp_path / 'twice.json'}"]))


def test_check_shows_a_recipe_and_what_would_stop_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pairs, steps, memory beside the engine, candidates; a start that is not there."""
    command = ["check", str(folder / "tuned.yaml"), "--run-dir", str(folder / "new")]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert "24 samples, 0 of them left out" in shown and "contrastive candidates 24 (lane 4 + queue 20)" in shown
    assert cli.main([*command, "--init.model=nothing", "--validation.annotations=gone.json"]) == 2
    errors = capsys.readouterr().err
    assert "nothing" in errors and "gone.json" in errors


def test_an_official_checkpoint_gives_its_teacher_and_queue(folder: Path, tmp_path: Path) -> None:
    """Student, momentum weights and rows, under the number of no image; a queue of another size starts random."""
    torch.manual_seed(3)
    student, averaged = AlbefForPretraining(shape(image_size=48)), AlbefForPretraining(shape(image_size=48))
    teacher = {
        name: weight
        for name, weight in averaged.state_dict().items()
        if name != "temperature" and not name.startswith("itm_head.")
    }
    queue = FeatureQueue(20, shape().embed_dim, seed=5)
    queue.pointer = 7
    official = {"model": to_official(student.state_dict(), teacher, queue.state_dict())}
    torch.save(official, tmp_path / "ALBEF.pth")
    task = made(folder, f"--init.model={tmp_path / 'ALBEF.pth'}")
    for weights, theirs in ((task.model.state_dict(), student.state_dict()), (task.teacher.state_dict(), teacher)):
        same = [name for name in weights if name != "image_encoder.pos_embed"]
        assert len(same) > 50 and all(torch.equal(weights[name], theirs[name]) for name in same)
    assert torch.equal(task.queue.image, queue.image) and torch.equal(task.queue.text, queue.text)
    assert task.queue.pointer == 7 and set(task.queue.ids.tolist()) == {NO_ID}
    other = made(folder, f"--init.model={tmp_path / 'ALBEF.pth'}", "--objective.queue_size=8")
    assert other.queue.size == 8 and not torch.equal(other.queue.image, queue.image[:8])
    with pytest.raises(CheckpointError, match="no queue"):
        task.load_state({"teacher": task.state()["teacher"]})


def test_the_model_leaves_its_checkpoint_for_evaluation_and_another_start(
    folder: Path, alone: Path, tmp_path: Path
) -> None:
    """Folders of student and teacher, and the official file: `evaluate retrieval` gives the run's last validation."""
    for kind in ("student", "teacher"):
        assert cli.main(["export", str(alone), "--out", str(tmp_path / kind), "--weights", kind]) == 0
    data = ["--annotations", str(folder / "val.json"), "--images", str(folder / "images"), "--k-test", "3"]
    command = ["evaluate", "retrieval", "--model", str(tmp_path / "student"), *data, "--device", "cpu"]
    assert cli.main([*command, "--out", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    last = scalars(alone, "val/")[4]
    assert last == {name: found[name.removeprefix("val/")] for name in last}

    student, teacher = (Albef.from_pretrained(tmp_path / kind, "cpu") for kind in ("student", "teacher"))
    saved = load_file(alone / "checkpoints" / "step_00000004" / "teacher.safetensors")
    theirs, ours = teacher.model.state_dict(), student.model.state_dict()
    assert type(student).__name__ == "AlbefRetrieval" and student.max_text_tokens == 30
    assert all(torch.equal(theirs[name], weight) for name, weight in saved.items())
    assert {name for name in theirs if name not in saved} == {"itm_head.weight", "itm_head.bias", "temperature"}
    assert student.match(Image.open(folder / "images" / "0.jpg"), "one of thing 0").shape == (1,)
    assert "image-text retrieval" in (tmp_path / "teacher" / "README.md").read_text()

    assert cli.main(["export", str(alone), "--out", str(tmp_path / "pth"), "--format", "official"]) == 0
    read = read_official(tmp_path / "pth" / "albef.pth", vision_heads=2, text_heads=2)
    assert read.student.keys() == ours.keys() and all(torch.equal(read.student[name], ours[name]) for name in ours)
    assert read.teacher is not None and all(torch.equal(read.teacher[name], saved[name]) for name in saved)
    assert read.queue is not None
    queue = load_file(alone / "checkpoints" / "step_00000004" / "queue.safetensors")
    assert torch.equal(read.queue["ids"], queue["ids"])
    for start in (tmp_path / "teacher", tmp_path / "pth" / "albef.pth"):
        task = made(folder, f"--init.model={start}")
        assert set(task.queue.ids.tolist()) == {NO_ID}, "the numbers of another run's images"
