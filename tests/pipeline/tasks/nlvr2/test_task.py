"""Fine-tuning on NLVR2 in real runs: one rank, and two with ZeRO 2 that are killed and resumed; and what it refuses."""

from __future__ import annotations

import itertools
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from albef.downstream.alignment import AlbefForAlignment
from albef.errors import DataError
from albef.inputs.preprocess import preprocess_image
from albef.inputs.tokenizer import AlbefTokenizer
from albef.weights.official import to_official
from pipeline.config.resolve import load_config
from pipeline.config.run_config import RUNS
from pipeline.data import shared_memory
from pipeline.data.annotations.corpus import read_annotations
from pipeline.data.seeds import Draws
from pipeline.data.transforms import training_image
from pipeline.engine.distributed import World
from pipeline.planning.flops import flops_by_part
from pipeline.planning.readiness import shared_memory_warning
from pipeline.task import LaneStep
from pipeline.tasks.nlvr2.annotations import FORMAT
from pipeline.tasks.nlvr2.maker import NLVR2
from pipeline.tasks.snli_ve.maker import ENTAILMENT
from tests.support.entailment_run import entailment_recipe
from tests.support.finetuning import digest, make_task, run, scalars, shape
from tests.support.nlvr2_run import entry, nlvr2_recipe, write_entries
from tests.support.shards import jpeg, picture

ALONE = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
AT = LaneStep(step=0, epoch=0, lane=0, num_lanes=1, steps_per_epoch=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 entries, 7 to validate on, a pretrained model, and a recipe of two lanes of four; alpha rises over 2 steps."""
    made = tmp_path_factory.mktemp("nlvr2")
    nlvr2_recipe(made)
    return made


@pytest.mark.timeout(300)
def test_two_ranks_killed_and_resumed_take_the_steps_of_one(folder: Path) -> None:
    """ZeRO 2, kill -9 in step 3 and a save after step 2: every byte of student and teacher, and the accuracy of seven
    entries, which two ranks do not divide."""
    alone = run(folder / "nlvr2.yaml", "alone")
    two_ranks = ["--deepspeed.config=zero2_fp32", "--checkpoint.save_every=2", "--checkpoint.asynchronous=false"]
    with pytest.raises(RuntimeError, match="exit code -9"):
        run(folder / "nlvr2.yaml", "killed", *two_ranks, ranks=2, kill_in=3)
    killed = run(folder / "nlvr2.yaml", "killed", *two_ranks, ranks=2)
    assert digest(killed) == digest(alone) and any("teacher/cls_head" in name for name in digest(alone))
    values = scalars(alone, "val/")
    assert scalars(killed, "val/") == values and sorted(values) == [0, 4]
    for of_step in values.values():
        assert of_step["val/accuracy"] * 7 / 100 == pytest.approx(round(of_step["val/accuracy"] * 7 / 100))
        assert of_step["val/majority"] == pytest.approx(100 * 4 / 7)  # entries 1, 2 and 6 are true
    alpha = [of_step["train/alpha"] for _, of_step in sorted(scalars(alone, "train/alpha").items())]
    assert alpha == pytest.approx([0, 0.4 / 2.1, 0.8 / 2.1, 0.4]), "three steps an epoch, over 0.7 epochs"


def test_every_fault_of_an_entry_is_named(tmp_path: Path) -> None:
    """One image, three, no name, an image that is not there, another label, a label that is no text."""
    write_entries(tmp_path, 4, "train.json")
    changes: list[dict[str, Any]] = [
        {"images": ["train/0.jpg"]},
        {"images": ["train/0.jpg"] * 3},
        {"images": ["train/0.jpg", 1]},
        {"images": ["train/0.jpg", "train/9.jpg"]},
        {"label": "true"},
        {"label": True},
    ]
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps([entry(0), *(entry(1) | change for change in changes)]))
    with pytest.raises(DataError) as refused:
        read_annotations([str(file)], [str(tmp_path / "images")], FORMAT)
    message = str(refused.value)
    for words in (
        "6 of 7 entries",
        "entry 1 has ['train/0.jpg'] as images, which are not two names",
        "entry 2 has",
        "entry 3 has ['train/0.jpg', 1] as images",
        "entry 4 names the image train/9.jpg, which is not below",
        "entry 5 has the label true, which is none of False, True",
        "entry 6 has True as label, which is no text",
    ):
        assert words in message, message


def made(folder: Path, *overrides: str) -> Any:
    """The task of a run, without an engine."""
    return make_task(folder / "nlvr2.yaml", *overrides)


def test_a_batch_has_first_images_then_second_ones_each_with_its_own_draws(folder: Path) -> None:
    """So an image that is named twice is augmented in two ways; labels and statements are the entries'."""
    task = made(folder)
    corpus = NLVR2.corpus(load_config(folder / "nlvr2.yaml"))
    samples = [corpus.reader().read(ref) for ref in corpus.locate(np.arange(3))]
    batch = task.batcher.batch(
        [task.batcher.example(raw, seed=5, epoch=1) for raw in samples], seed=5, epoch=1, step=0, lane=0
    )
    assert batch.image.shape == (6, 3, 32, 32) and batch.image.dtype == torch.uint8
    expected = [
        training_image(
            jpeg(picture((number + which) // 2, 40, 36)),
            str(number),
            size=32,
            config=task.batcher.augment,
            draws=Draws(5, "augment", 1, str(number), which),
        )
        for which in (0, 1)
        for number in range(3)
    ]
    assert torch.equal(batch.image, torch.stack(expected))
    assert not torch.equal(batch.image[0], batch.image[3])
    assert batch.labels.tolist() == [0, 1, 1] and batch.captions == ["thing 0", "thing 1", "thing 2"]


def test_an_entry_is_classified_from_its_two_images_in_order(folder: Path) -> None:
    """The share of right answers of the model's own forward, entry by entry."""
    task = made(folder)
    tokenizer = AlbefTokenizer()
    right = []
    task.model.eval()
    for number in range(7):
        images = [preprocess_image(picture_of(which), 32) for which in (number // 2, (number + 1) // 2)]
        ids, mask = tokenizer([f"thing {number}"], max_length=64)
        with torch.no_grad():
            true = task.model.predict(torch.stack(images), ids, mask)[0].argmax().item()
        right.append(true == int(number % 5 in (1, 2)))
    assert task.validate(None, lambda *_: None)["val/accuracy"] == pytest.approx(100 * sum(right) / 7)


def picture_of(number: int) -> Any:
    """The stored picture, decoded."""
    return Image.open(BytesIO(jpeg(picture(number, 40, 36)))).convert("RGB")


def test_the_teacher_starts_from_what_was_loaded_but_for_the_original_defect(folder: Path) -> None:
    """Both layers of a pair start from one of pretraining's; with preset `paper` the teacher has the random weights."""
    task = made(folder)
    pretrained = load_file(folder / "pretrained" / "model.safetensors")
    ours = task.model.state_dict()
    names = [f"multimodal_encoder.layers.{{}}.{part}.query.weight" for part in ("self_attention", "cross_attention")]
    for number, name in itertools.product(range(2 * task.model.config.fusion_depth), names):
        assert torch.equal(ours[name.format(number)], pretrained[name.format(number // 2)])
    assert all(torch.equal(task.state()["teacher"][name], weight) for name, weight in ours.items())
    defect = made(folder, "--preset=paper", "--schedule.warmup_steps=0")
    assert all(torch.equal(defect.model.state_dict()[name], weight) for name, weight in ours.items())
    assert not torch.equal(defect.state()["teacher"][names[0].format(0)], ours[names[0].format(0)])
    assert made(folder, "--objective.distill=false").state() == {}


def test_it_starts_from_an_official_checkpoint_of_text_assignment(folder: Path, tmp_path: Path) -> None:
    """As the paper does: every weight but the head."""
    torch.manual_seed(2)
    before = AlbefForAlignment(shape()).state_dict()
    torch.save({"model": to_official(before, None, None)}, tmp_path / "text_assignment.pth")
    ours = made(folder, f"--init.model={tmp_path / 'text_assignment.pth'}").model.state_dict()
    shared = [name for name in ours if not name.startswith("cls_head.")]
    assert len(shared) == len(ours) - 4 and all(torch.equal(ours[name], before[name]) for name in shared)


def test_two_images_count_in_memory_and_operations(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image encoder takes twice the operations of SNLI-VE's for a sample, and a worker's batch twice the bytes."""
    two = load_config(folder / "nlvr2.yaml", ["--data.num_workers=1"])
    one = load_config(entailment_recipe(folder / "entailment"), ["--data.num_workers=1"])
    assert (RUNS["nlvr2"].images_per_sample, RUNS["snli-ve"].images_per_sample) == (2, 1)
    flops = [
        flops_by_part(maker.sketch(of, torch.float32), maker.noise(of, 3))["forward image_encoder"]
        for maker, of in ((NLVR2, two), (ENTAILMENT, one))
    ]
    assert flops[0] == 2 * flops[1]
    needed: list[int] = []
    monkeypatch.setattr(shared_memory, "shortage", needed.append)
    for of in (two, one):
        shared_memory_warning(of, 1)
    assert needed[0] == 2 * needed[1] > 0
