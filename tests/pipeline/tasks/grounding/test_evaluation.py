"""Boxes by Grad-CAM against true ones: on the generated world by the command, and worked out by hand."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from albef.errors import DataError
from demo.world.__main__ import main as make_world
from pipeline import cli
from pipeline.tasks.grounding.evaluation import Pointed, metrics, point
from pipeline.tasks.grounding.proposals import read_proposals
from tests.support.finetuning import pretrained_folder
from tests.support.ranks import run_ranks
from tests.support.refusal import refusal
from tests.support.shards import jpeg, picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world, and a model of random weights."""
    made = tmp_path_factory.mktemp("grounding")
    assert make_world([str(made / "world"), "--scenes", "100", "--held-out", "100"]) == 0
    pretrained_folder(made / "model")
    return made


def run_command(_rank: int, _size: int, command: list[str]) -> int:
    return cli.main(command)


def command(folder: Path, out: Path, *more: str) -> list[str]:
    """`evaluate grounding` on the world's test split."""
    world = folder / "world"
    data = ["--annotations", str(world / "annotations" / "grounding_test.json"), "--images", str(world / "images.zip")]
    model = ["--model", str(folder / "model"), "--device", "cpu", "--batch-size", "16"]
    return ["evaluate", "grounding", *model, *data, "--out", str(out), *more]


def overlap(one: list[float], other: list[float]) -> float:
    """Intersection over union of whole pixels, counted."""
    a, b = (
        {(x, y) for x in range(int(box[0]), int(box[0] + box[2])) for y in range(int(box[1]), int(box[1] + box[3]))}
        for box in (one, other)
    )
    return len(a & b) / len(a | b)


def test_the_world_is_read_as_it_is_and_every_entry_scored_once(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On one rank and on two, the same file; boxes are the detector's; the accuracy is that of its answers."""
    dets = folder / "world" / "annotations" / "dets.json"
    assert cli.main(command(folder, tmp_path / "one.json", "--dets", str(dets))) == 0
    found: dict[str, Any] = json.loads((tmp_path / "one.json").read_text())
    rows = json.loads((folder / "world" / "annotations" / "grounding_test.json").read_text())
    boxes = json.loads(dets.read_text())
    assert len(rows) % 16 and found["num_entries"] == len(rows)
    assert [answer["ref_id"] for answer in found["answers"].values()] == [row["ref_id"] for row in rows]
    right = 0
    for answer, row in zip(found["answers"].values(), rows, strict=True):
        assert answer["box"] in boxes[row["image_id"]]
        right += overlap(answer["box"], row["box"]) >= 0.5
        assert answer["iou"] == pytest.approx(overlap(answer["box"], row["box"]))
    assert found["accuracy"] == pytest.approx(100 * right / len(rows)) and found["reachable"] == 100.0
    assert (found["by"], found["layer"], found["dets"]) == ("itm", 0, str(dets))
    assert found["trained_on"] is None, "the model's folder has no record"
    shown = capsys.readouterr().out
    assert "by itm, layer 0 from 0, boxes of --dets" in shown and "accuracy" in shown and "pointing" in shown
    two = command(folder, tmp_path / "two.json", "--dets", str(dets))
    assert run_ranks(run_command, 2, two, process_group=False) == [0, 0]
    assert json.loads((tmp_path / "two.json").read_text()) == found


def test_without_a_detector_the_maps_give_the_boxes(folder: Path, tmp_path: Path) -> None:
    """By the image encoder, in a chosen layer: edges at the cells of the map."""
    assert cli.main(command(folder, tmp_path / "itc.json", "--by", "itc", "--block", "0")) == 0
    found = json.loads((tmp_path / "itc.json").read_text())
    assert (found["by"], found["layer"], found["dets"]) == ("itc", 0, None) and "reachable" not in found
    cells = json.loads((folder / "model" / "config.json").read_text())["model"]
    side = 64 * cells["patch_size"] / cells["image_size"]
    edges = [edge / side for answer in found["answers"].values() for edge in answer["box"]]
    assert edges == pytest.approx([round(edge) for edge in edges])


def test_scores_by_hand() -> None:
    """A map of one hot corner, two boxes, three entries in two splits."""
    heat, size = torch.tensor([[0.0, 0.0], [0.0, 1.0]]), (40, 40)
    corner, whole = (20.0, 20.0, 20.0, 20.0), (0.0, 0.0, 40.0, 40.0)
    found = [
        point(heat, corner, size, [whole, corner]),  # the corner: right
        point(heat, whole, size, [whole, corner]),  # the corner again: a quarter of the whole
        point(heat, (0.0, 0.0, 20.0, 20.0), size, []),  # no proposal, and the map points elsewhere
    ]
    assert [one.box for one in found] == [corner, corner, None]
    assert [one.overlap for one in found] == [1.0, 0.25, 0.0] and [one.hits for one in found] == [True, True, False]
    values = metrics(found, ["val", "testA", "val"])
    assert values["accuracy"] == pytest.approx(100 / 3) and values["pointing"] == pytest.approx(200 / 3)
    assert (values["accuracy_val"], values["pointing_val"]) == (50.0, 50.0)
    assert (values["accuracy_testA"], values["pointing_testA"]) == (0.0, 100.0)
    assert values["chance_pointing"] == pytest.approx(100 * (0.25 + 1 + 0.25) / 3)
    assert values["chance_accuracy"] == pytest.approx(100 * (0.5 + 0.5 + 0) / 3)
    assert values["reachable"] == pytest.approx(200 / 3)
    alone = point(heat, corner, size, None)
    assert alone.box == corner and alone.right_proposals is None and isinstance(alone, Pointed)


def test_both_kinds_of_detections_are_read(tmp_path: Path) -> None:
    """By image, each box with what follows it; and a list as MAttNet writes it. Scores and classes are not read."""
    (tmp_path / "dets.json").write_text(json.dumps({"7": [[1, 2, 3.5, 4, 0.9, 3], [0, 0, 1, 1]], "8": []}))
    assert read_proposals(tmp_path / "dets.json") == {"7": [[1, 2, 3.5, 4], [0, 0, 1, 1]], "8": []}
    rows = [{"image_id": 7, "box": [1, 2, 3, 4], "score": 0.9, "det_id": n} for n in range(2)]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    assert read_proposals(tmp_path / "list.json") == {"7": [[1, 2, 3, 4], [1, 2, 3, 4]]}
    for values, fault in (
        ({"7": [[1, 2, 3]]}, r"image 7 has \[1, 2, 3\] as a box"),
        ({"7": [[1, 2, 3, 0]]}, "no .x, y, width, height."),
        ({"7": [[1, 2, 3, True]]}, "as a box"),
        ({"7": {}}, "image 7 has a dict"),
        ([{"box": [1, 2, 3, 4]}], "detection 0 has no image_id"),
        ("dets", "the file holds a str"),
    ):
        (tmp_path / "wrong.json").write_text(json.dumps(values))
        with pytest.raises(DataError, match=fault):
            read_proposals(tmp_path / "wrong.json")


def test_what_does_not_belong_together_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Entries without boxes, detections of other images, images of another size, a layer that is not there."""
    (tmp_path / "0.jpg").write_bytes(jpeg(picture(0, 40, 36)))
    entry = {"image": "0.jpg", "text": "a thing", "ref_id": 1, "box": [1, 2, 3, 4], "image_id": 5}
    images = ["--images", str(tmp_path), "--model", str(folder / "model"), "--device", "cpu"]

    def evaluated(rows: list[dict[str, Any]], *more: str) -> list[str]:
        (tmp_path / "rows.json").write_text(json.dumps(rows))
        paths = ["--annotations", str(tmp_path / "rows.json"), "--out", str(tmp_path / "out.json")]
        return ["evaluate", "grounding", *images, *paths, *more]

    missing = refusal(capsys, evaluated([{key: entry[key] for key in ("image", "text", "ref_id")}]))
    assert "entry 0 has None as box" in missing and "REFER" in missing
    (tmp_path / "dets.json").write_text(json.dumps({"4": [[0, 0, 9, 9]]}))
    dets = ["--dets", str(tmp_path / "dets.json")]
    assert "no image of" in refusal(capsys, evaluated([entry], *dets))
    assert "an image of 80 x 36 pixels" in refusal(capsys, evaluated([entry | {"width": 80, "height": 36}]))
    assert "--block 99" in refusal(capsys, evaluated([entry], "--block", "99"))
    other = ["evaluate", "retrieval", *images, "--annotations", "a.json", "--out", str(tmp_path / "out.json"), *dets]
    assert "takes no --dets" in refusal(capsys, other)
    with caplog.at_level(logging.WARNING):
        assert cli.main(evaluated([entry, entry | {"image_id": 4}], *dets)) == 0
    assert "1 of 2 entries have an image without a proposal" in caplog.text or "1 of 2" in capsys.readouterr().err
