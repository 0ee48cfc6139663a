"""Annotation files as a corpus: every fault at once, images in folders and zips, the loader's promises, other data."""

from __future__ import annotations

import itertools
import json
import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from albef.errors import DataError
from pipeline.config.annotation_sections import AnnotationData
from pipeline.data.annotations.corpus import read_annotations
from pipeline.data.annotations.entries import Entry, Format, text_of
from pipeline.data.annotations.reader import AnnotatedSample
from pipeline.data.decode import open_image
from pipeline.data.loader import TrainingLoader
from tests.support.brightness_task import Pixels
from tests.support.shards import jpeg, picture


def check(value: dict[str, Any]) -> Entry:
    return Entry(images=(text_of(value, "image"),), row={"text": text_of(value, "text")}, key=str(value.get("id", "")))


FORM = Format(layout='{"image": name, "text": text}', check=check)


def write(folder: Path, count: int, name: str = "train.json", first: int = 0) -> Path:
    """`count` entries, two for each image, and the images in folder/images."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entries = []
    for number in range(first, first + count):
        (folder / "images" / f"{number // 2}.jpg").write_bytes(jpeg(picture(number // 2, 24, 20)))
        entries.append({"image": f"{number // 2}.jpg", "text": f"text {number}"})
    (folder / name).write_text(json.dumps(entries))
    return folder / name


def read(files: Path | Sequence[Path], *roots: Path) -> Any:
    files = [files] if isinstance(files, Path) else files
    return read_annotations([str(file) for file in files], [str(root) for root in roots], FORM)


def test_all_faults_of_a_file_are_named_at_once(tmp_path: Path) -> None:
    """Which entry, what it has, what was expected, where images were looked for."""
    file = write(tmp_path, 4)
    entries = json.loads(file.read_text())
    entries[1] = {"image": "0.jpg"}
    entries[2]["text"] = 7
    entries += [{"image": "gone.jpg", "text": "x"}, {"image": "../train.json", "text": "x"}, "text"]
    entries += [{"image": "0.jpg", "text": "x", "id": 5}, {"image": "0.jpg", "text": "x", "id": 5}]
    file.write_text(json.dumps(entries))
    with pytest.raises(DataError) as refused:
        read(file, tmp_path / "images")
    lines = refused.value.message.splitlines()
    assert lines[0].endswith("train.json: 6 of 9 entries cannot be used:")
    root = tmp_path / "images"
    assert [line.strip() for line in lines[1:]] == [
        "entry 1 has no text",
        "entry 2 has 7 as text, which is no text",
        f"entry 4 names the image gone.jpg, which is not below {root}",
        f"entry 5 names the image ../train.json, which is not below {root}",
        "entry 6 is a str, not an object",
        "entry 8 has the number 5 of entry 7",
    ]
    assert refused.value.hint == f"each entry is {FORM.layout}"
    file.write_text(json.dumps([{"no": number} for number in range(200)]))
    with pytest.raises(DataError, match=r"(?s)200 of 200 entries.*and 190 more") as refused:
        read(file, root)
    assert len(refused.value.message.splitlines()) == 12


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[", "is not JSON"),
        (b'{"image": 1}', "holds a dict, not a list"),
        (b"[]", "holds no entry"),
        ("[]".encode("utf-16"), "is UTF-16"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_no_list_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    """With what was expected."""
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.json", tmp_path)


def test_what_a_recipe_lacks_is_named_by_its_key(tmp_path: Path) -> None:
    """No files, no roots, a root that is none, a file twice."""
    file = write(tmp_path, 2)
    for files, roots, message in (
        ([], [tmp_path], "data.annotations is empty"),
        ([file], [], "data.images is empty"),
        ([file], [tmp_path / "nowhere"], "not found: .*nowhere"),
        ([file, file], [tmp_path], "is named twice"),
    ):
        with pytest.raises(DataError, match=message):
            read(files, *roots)


def test_images_come_from_folders_and_zips(tmp_path: Path) -> None:
    """In their order; the reader opens them in the process that reads, and travels there by pickle."""
    file = write(tmp_path, 6)
    with zipfile.ZipFile(tmp_path / "rest.zip", "w") as archive:
        archive.write(tmp_path / "images" / "2.jpg", "2.jpg")
    (tmp_path / "images" / "2.jpg").unlink()
    corpus = read(file, tmp_path / "images", tmp_path / "rest.zip")
    reader = pickle.loads(pickle.dumps(corpus.reader()))
    samples = [reader.read(ref) for ref in corpus.locate(torch.arange(6).numpy())]
    assert [sample.row["text"] for sample in samples] == [f"text {number}" for number in range(6)]
    assert [sample.images for sample in samples] == [[jpeg(picture(number // 2, 24, 20))] for number in range(6)]


def test_the_fingerprint_sees_entries_order_and_files_not_where_they_lie(tmp_path: Path) -> None:
    """So a run resumes on moved files, and on no others."""
    one, two = write(tmp_path, 4), write(tmp_path, 4, "more.json", first=4)
    images = tmp_path / "images"
    same = read(one, images).fingerprint()
    moved = write(tmp_path / "moved", 4)
    assert read(moved, tmp_path / "moved" / "images").fingerprint() == same
    prints = [same, *(read(files, images).fingerprint() for files in ([two], [one, two], [two, one]))]
    entries = json.loads(one.read_text())
    for changed in (entries[::-1], entries[:3], [*entries[:3], entries[3] | {"text": "other"}]):
        one.write_text(json.dumps(changed))
        prints.append(read(one, images).fingerprint())
    one.write_text(json.dumps([entry | {"unused": 1} for entry in entries]))
    assert read(one, images).fingerprint() == same, "what the task does not read does not count"
    assert len(set(prints)) == len(prints)


@dataclass(frozen=True)
class Example:
    name: str


class Batcher:
    """Decodes nothing but the header, which is enough to find a damaged image."""

    image_size = 8

    def example(self, raw: AnnotatedSample, *, seed: int, epoch: int) -> Example:
        open_image(raw.images[0], raw.name)
        return Example(raw.name)

    def batch(self, examples: Sequence[Example], *, seed: int, epoch: int, step: int, lane: int) -> Pixels:
        return Pixels(image=torch.zeros(len(examples), 1), keys=[one.name for one in examples], captions=[])


def play(corpus: Any, count: int, *, lanes: range = range(2), start: int = 0, num_workers: int = 0) -> list[Any]:
    loader = TrainingLoader(
        corpus,
        data=AnnotationData(num_workers=num_workers),
        batcher=Batcher(),
        seed=3,
        micro_batch_size=3,
        num_lanes=2,
        lanes=lanes,
    )
    steps = list(itertools.islice(loader.steps(start), count))
    loader.close()
    return steps


def test_the_loader_keeps_its_promises_on_annotations(tmp_path: Path) -> None:
    """Every entry once an epoch over both files, the same lanes on two ranks, with a worker, and from a later step."""
    corpus = read([write(tmp_path, 7), write(tmp_path, 5, "more.json", first=7)], tmp_path / "images")
    whole = play(corpus, 4)
    keys = [[lane.keys for lane in step.lanes] for step in whole]
    expected = {f"train/{number}" for number in range(7)} | {f"more/{number}" for number in range(5)}
    for epoch in (keys[:2], keys[2:]):
        assert sorted(key for step in epoch for lane in step for key in lane) == sorted(expected)
    assert keys[:2] != keys[2:]
    for rank in range(2):
        of_rank = play(corpus, 4, lanes=range(rank, rank + 1), num_workers=rank)
        assert [[lane.keys for lane in step.lanes] for step in of_rank] == [[step[rank]] for step in keys]
    assert [lane.keys for lane in play(corpus, 1, start=3)[0].lanes] == keys[3]


def test_a_bad_image_is_replaced_and_counted(tmp_path: Path) -> None:
    """One that vanished after the check and one that is damaged: two entries each, by their reasons."""
    corpus = read(write(tmp_path, 12), tmp_path / "images")
    (tmp_path / "images" / "1.jpg").unlink()
    (tmp_path / "images" / "4.jpg").write_bytes(b"no image")
    for num_workers in (0, 1):
        steps = play(corpus, 2, num_workers=num_workers)
        counted: dict[str, int] = {}
        for step in steps:
            for reason, count in step.skipped.items():
                counted[reason] = counted.get(reason, 0) + count
        assert counted == {"missing_file": 2, "image_undecodable": 2}
        keys = [key for step in steps for lane in step.lanes for key in lane.keys]
        assert len(keys) == 12 and not {"2", "3", "8", "9"} & set(keys)
