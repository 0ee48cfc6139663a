"""`data_prep refer`: REFER's files to lists that training and evaluation take, with checksums."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from data_prep.cli import main
from pipeline.tasks.grounding.annotations import pair_of, reference_of
from tests.support.refer_files import instances, reference, write_refer

OUT = "refcoco+_unc"


def made(folder: Path, out: Path, split_by: str = "unc") -> int:
    return main(["refer", str(folder), "--split-by", split_by, "--out", str(out)])


def lists(out: Path, name: str = OUT) -> dict[str, Any]:
    return {path.stem.removeprefix(f"{name}_"): json.loads(path.read_text()) for path in out.glob(f"{name}_*.json")}


@pytest.mark.parametrize("protocol", [0, 2])
def test_every_phrase_has_its_box_and_split(tmp_path: Path, protocol: int) -> None:
    """Two phrases of one reference; testA and testB in one list, as the authors have them; sums of every file."""
    refs = [
        reference(5, 50, 500, "train", ["red man", "man on bike"]),
        reference(6, 51, 501, "testA", ["woman"]),
        reference(7, 52, 501, "testB", ["the dog"]),
        reference(8, 53, 502, "val", ["cup"]),
    ]
    folder = write_refer(tmp_path / "refcoco+", {"unc": refs}, protocol=protocol)
    assert made(folder, tmp_path / "out") == 0
    found = lists(tmp_path / "out")
    assert sorted(found) == ["test", "train", "val"]
    assert found["train"][1] == {
        "image": "train2014/COCO_train2014_000000000500.jpg",
        "text": "man on bike",
        "ref_id": 5,
        "image_id": 500,
        "split": "train",
        "box": [50.0, 2.5, 30.0, 40.0],
        "width": 640,
        "height": 480,
    }
    assert [(row["split"], row["text"], row["ref_id"]) for row in found["test"]] == [
        ("testA", "woman", 6),
        ("testB", "the dog", 7),
    ]
    for row in found["test"] + found["val"]:
        assert reference_of(row).row["box"] == row["box"] and pair_of(row).row["captions"] == [row["text"]]
    record = json.loads((tmp_path / "out" / f"{OUT}.json").read_text())
    for part, place in (("inputs", folder), ("outputs", tmp_path / "out")):
        for name, digest in record[part].items():
            assert hashlib.sha256((place / name).read_bytes()).hexdigest() == digest
    assert sorted(record["inputs"]) == ["instances.json", "refs(unc).p"] and len(record["outputs"]) == 3
    assert (record["dataset"], record["split_by"]) == ("refcoco+", "unc")
    assert record["splits"]["train"] == {"references": 1, "phrases": 2, "images": 1}
    assert record["images_shared_with_train"] == {"testA": 0, "testB": 0, "val": 0}
    again = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert made(folder, tmp_path / "out") == 0
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == again


def test_images_of_train_in_another_split_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """RefCOCOg as google divides it, by objects, has images of val in train; as umd divides it, none."""
    google = [reference(1, 10, 500, "train", ["a"]), reference(2, 11, 500, "val", ["b"])]
    umd = [reference(1, 10, 500, "train", ["a"]), reference(2, 12, 501, "val", ["b"])]
    folder = write_refer(tmp_path / "refcocog", {"google": google, "umd": umd})
    assert made(folder, tmp_path / "out", "google") == 0
    assert "1 images of val are in train too" in capsys.readouterr().out
    assert made(folder, tmp_path / "out", "umd") == 0
    assert "in train too" not in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *(f"refcocog_google{end}.json" for end in ("", "_train", "_val")),
        *(f"refcocog_umd{end}.json" for end in ("", "_train", "_val")),
    ]


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each fault with its reference; another data set into the same folder; a pickle that runs something."""
    refs: list[Any] = [
        reference(1, 10, 500, "train", ["a"]),
        reference(2, 10, 999, "train", ["a"]),
        reference(3, 99, 500, "train", ["a"]),
        reference(4, 10, 500, "trainval", ["a"]),
        reference(5, 10, 500, "val", []),
        7,
    ]
    folder = write_refer(tmp_path / "refcoco+", {"unc": refs})

    def refused(split_by: str = "unc") -> str:
        capsys.readouterr()
        assert made(folder, tmp_path / "out", split_by) == 2
        return capsys.readouterr().err

    shown = refused()
    for fault in (
        "5 of 6 references",
        "reference 1 has the image_id 999, which instances.json lacks",
        "reference 2 has the ann_id 99, which is no box of image 500",
        "reference 3 has the split 'trainval'",
        "reference 4 has no sentences",
        "reference 5 is a int",
    ):
        assert fault in shown
    assert "refs(umd).p" in refused("umd")
    (folder / "refs(unc).p").write_bytes(pickle.dumps([print]))
    assert "which makes no plain value" in refused()
    (folder / "refs(unc).p").write_bytes(pickle.dumps({"refs": refs[:1]}))
    assert "holds a dict" in refused()
    assert not (tmp_path / "out").exists()
    write_refer(folder, {"unc": refs[:1]})
    assert made(folder, tmp_path / "out") == 0
    (folder / "instances.json").write_text(json.dumps(instances([(10, 500, [1, 1, 2, 2])])))
    assert "is of other files" in refused()
