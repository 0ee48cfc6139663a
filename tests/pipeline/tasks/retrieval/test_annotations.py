"""Evaluation sets: every image once, all its texts, in the order of the file or the shards."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from albef.errors import DataError
from pipeline.data.corpus.manifest import read_manifest
from pipeline.tasks.retrieval.annotations import EvaluationPairs
from tests.support.shards import pair, picture, write_corpus, write_manifest


def write_annotations(folder: Path, entries: object) -> Path:
    """The entries as a JSON file, with a picture below images/ for each of 0.png .. 3.png."""
    (folder / "images").mkdir()
    for number in range(4):
        picture(number, 40, 30).save(folder / "images" / f"{number}.png")
    file = folder / "test.json"
    file.write_text(json.dumps(entries))
    return file


def assert_same(ours: Image.Image, theirs: Image.Image) -> None:
    """Pixel for pixel."""
    assert (np.asarray(ours) == np.asarray(theirs)).all()


ENTRIES = [
    {"image": "2.png", "caption": ["A Dog.", "two dogs"], "image_id": 7},
    {"image": "0.png", "caption": "a cat"},
    {"image": "3.png", "caption": ["birds/bees"]},
    {"image": "0.png", "caption": "the cat again"},
]


def test_annotations_become_images_with_their_texts(tmp_path):
    """Lists and single captions; two rows of one image are one image with both captions; texts are cleaned."""
    pairs = EvaluationPairs.from_annotations(write_annotations(tmp_path, ENTRIES), tmp_path / "images")
    assert pairs.names == ["2.png", "0.png", "3.png"]
    assert pairs.texts == ["a dog", "two dogs", "a cat", "the cat again", "birds bees"]
    assert pairs.text_to_image == [0, 0, 1, 1, 2]
    assert pairs.image_to_texts == [[0, 1], [2, 3], [4]]
    assert (pairs.num_images, pairs.num_texts) == (3, 5)
    assert pairs.image(0).mode == "RGB"
    assert_same(pairs.image(0), picture(2, 40, 30))
    assert_same(pickle.loads(pickle.dumps(pairs)).image(1), picture(0, 40, 30))


def test_first_captions_and_a_limit(tmp_path):
    """captions=first keeps one text an image; limit keeps the first images."""
    file = write_annotations(tmp_path, ENTRIES)
    pairs = EvaluationPairs.from_annotations(file, tmp_path / "images", "first", limit=2)
    assert pairs.texts == ["a dog", "a cat"]
    assert pairs.image_to_texts == [[0], [1]]


def test_an_image_without_words_is_left_out_and_said(tmp_path, caplog):
    """'?!' leaves nothing: the image goes, with a warning that counts it; the others are numbered without a gap."""
    file = write_annotations(tmp_path, [{"image": "1.png", "caption": ["?!", ""]}, ENTRIES[1]])
    with caplog.at_level(logging.WARNING):
        pairs = EvaluationPairs.from_annotations(file, tmp_path / "images")
    assert pairs.names == ["0.png"] and pairs.text_to_image == [0]
    assert "1 images have no caption" in caplog.text


def test_images_may_lie_in_a_zip(tmp_path):
    """As COCO's do: the same pictures as from the folder; a file that is no zip is named."""
    file = write_annotations(tmp_path, ENTRIES)
    folder = EvaluationPairs.from_annotations(file, tmp_path / "images")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in (tmp_path / "images").iterdir():
            archive.write(path, f"./{path.name}")
    zipped = EvaluationPairs.from_annotations(file, tmp_path / "images.zip")
    assert zipped.names == folder.names
    assert [zipped.image(i).tobytes() for i in range(3)] == [folder.image(i).tobytes() for i in range(3)]
    with pytest.raises(DataError, match="is not a zip of images"):
        EvaluationPairs.from_annotations(file, file)
    with pytest.raises(DataError, match="folder or zip of images not found"):
        EvaluationPairs.from_annotations(file, tmp_path / "none")


def test_a_byte_order_mark_is_no_part_of_the_annotations(tmp_path):
    """As Windows' editors write it: the same pairs."""
    file = write_annotations(tmp_path, ENTRIES)
    before = EvaluationPairs.from_annotations(file, tmp_path / "images")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    after = EvaluationPairs.from_annotations(file, tmp_path / "images")
    assert (after.names, after.texts) == (before.names, before.texts)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"image": "0.png"}, "holds a dict, not a list"),
        ([{"image": "0.png", "caption": "x"}, {"caption": "x"}], "entry 1 has no image path"),
        ([{"image": "0.png", "caption": [1]}], "entry 0"),
        (["0.png"], "entry 0"),
        ([], "holds no image with a caption"),
        ([{"image": "9.png", "caption": "x"}, *ENTRIES], r"1 of 4 images are not below .*images, 9\.png first"),
    ],
)
def test_a_wrong_annotation_file_is_named(tmp_path, entries, message):
    """Each error names the place of the fault."""
    with pytest.raises(DataError, match=message):
        EvaluationPairs.from_annotations(write_annotations(tmp_path, entries), tmp_path / "images")


def test_a_missing_or_broken_annotation_file_is_named(tmp_path):
    """No such file; a pipe that nobody writes to; not JSON; not text; an image that does not decode."""
    with pytest.raises(DataError, match=r"none\.json: No such file"):
        EvaluationPairs.from_annotations(tmp_path / "none.json", tmp_path)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DataError, match=r"pipe\.json: not a regular file"):
        EvaluationPairs.from_annotations(tmp_path / "pipe.json", tmp_path)
    broken = tmp_path / "broken.json"
    faults = [(b"[{", "is not JSON"), (b'["caf\xe9"]', "is not JSON"), (b"[" * 100_000, "is not JSON")]
    for content, fault in (*faults, ("[{}]".encode("utf-16"), "is UTF-16, not UTF-8")):
        broken.write_bytes(content)
        with pytest.raises(DataError, match=fault):
            EvaluationPairs.from_annotations(broken, tmp_path)
    file = write_annotations(tmp_path, ENTRIES)
    pairs = EvaluationPairs.from_annotations(file, tmp_path / "images")
    (tmp_path / "images" / "2.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"2\.png cannot be used: image_undecodable"):
        pairs.image(0)
    (tmp_path / "images" / "2.png").unlink()
    with pytest.raises(DataError, match="missing_file"):
        pairs.image(0)


def test_a_manifest_becomes_images_with_their_texts(tmp_path):
    """All samples in manifest order; the images are those in the shards."""
    pairs = EvaluationPairs.from_manifest(read_manifest(write_corpus(tmp_path, [2, 3])), limit=4)
    assert pairs.names == [f"{number:09d}" for number in range(4)]
    assert pairs.texts[2:4] == ["a picture of thing 1", "thing 1 seen again"]
    assert pairs.image_to_texts == [[0, 1], [2, 3], [4, 5], [6, 7]]
    difference = np.abs(np.asarray(pairs.image(3)).astype(int) - np.asarray(picture(3)))
    assert difference.mean() < 5  # JPEG
    again = pickle.loads(pickle.dumps(pairs))
    assert_same(again.image(2), pairs.image(2))


def test_a_bad_sample_of_a_manifest_ends_the_evaluation(tmp_path):
    """Where training would take a replacement, an evaluation on other data would be another number."""
    bad = dataclasses.replace(pair(1), record=b"{")
    manifest = read_manifest(write_manifest(tmp_path, [[pair(0), bad]]))
    with pytest.raises(DataError, match="000000001 cannot be used: json_damaged"):
        EvaluationPairs.from_manifest(manifest)
