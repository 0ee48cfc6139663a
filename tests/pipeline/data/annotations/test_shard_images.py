"""Images of annotation files in tar shards: found by key or URL, read lazily, and what goes wrong with them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from albef.errors import DataError
from data_prep.cli import main as data_prep
from pipeline import cli
from pipeline.data.annotations.corpus import read_annotations
from pipeline.data.corpus.reader import BadSample
from pipeline.tasks.finetuning.entry_image import entry_image
from tests.pipeline.data.annotations.test_annotations import FORM
from tests.support.finetuning import write_images
from tests.support.retrieval_run import retrieval_recipe
from tests.support.shards import jpeg, pair, picture, write_manifest


def entries_of(folder: Path, names: Sequence[str]) -> Path:
    """A list with an entry for each of these images."""
    (folder / "list.json").write_text(json.dumps([{"image": name, "text": f"a {name}"} for name in names]))
    return folder / "list.json"


def read(file: Path, *roots: Path) -> Any:
    return read_annotations([str(file)], [str(root) for root in roots], FORM)


def shards_of(folder: Path) -> Path:
    """Five samples, keys 000000000 to 000000004, in two tars; returns the folder."""
    write_manifest(folder, [[pair(number) for number in range(3)], [pair(number) for number in (3, 4)]])
    return folder


def stored(number: int) -> bytes:
    return jpeg(picture(number))


def test_an_image_is_found_by_key_by_member_and_by_url_and_else_below_a_folder(tmp_path: Path) -> None:
    """The reader travels by pickle without the index, and opens tars where it reads; threads share no file."""
    shards = shards_of(tmp_path / "shards")
    write_images(tmp_path / "images", 8)
    names = ["000000003", "000000001.jpg", "http://example.invalid/000000004.jpg", "7.jpg"]
    corpus = read(entries_of(tmp_path, names), tmp_path / "images", shards)
    sent = pickle.dumps(corpus.reader())
    assert len(sent) < 1000
    reader = pickle.loads(sent)
    refs = pickle.loads(pickle.dumps(corpus.locate(np.arange(4))))
    samples = [reader.read(ref) for ref in refs]
    below = (tmp_path / "images" / "7.jpg").read_bytes()
    assert [sample.images for sample in samples] == [[stored(3)], [stored(1)], [stored(4)], [below]]
    assert [sample.row["text"] for sample in samples] == [f"a {name}" for name in names]
    assert [corpus.images.read(name, 1 << 20) for name in names] == [stored(3), stored(1), stored(4), below]
    assert entry_image(corpus, 2, 32).shape == (3, 32, 32)


def test_the_fingerprint_is_that_of_the_same_names_below_a_folder(tmp_path: Path) -> None:
    """Of images the names count, not where they lie; a manifest may be named itself."""
    shards = shards_of(tmp_path / "shards")
    (tmp_path / "images").mkdir()
    for number in range(5):
        (tmp_path / "images" / f"{number:09d}.jpg").write_bytes(stored(number))
    file = entries_of(tmp_path, [f"{number:09d}.jpg" for number in range(5)])
    corpora = [read(file, root) for root in (tmp_path / "images", shards, shards / "manifest.parquet")]
    assert len({corpus.fingerprint() for corpus in corpora}) == 1
    read_by = [[corpus.reader().read(ref).images for ref in corpus.locate(np.arange(5))] for corpus in corpora]
    assert read_by[0] == read_by[1] == read_by[2]


def test_names_that_are_nowhere_and_shards_that_are_gone_are_errors(tmp_path: Path) -> None:
    """Before training, with the entry, its image, and where it was looked for."""
    shards = shards_of(tmp_path / "shards")
    with pytest.raises(DataError, match=r"entry 1 names the image 000000009, which is not in .*shards"):
        read(entries_of(tmp_path, ["000000001", "000000009"]), shards)
    with pytest.raises(DataError, match=r"no manifest at .*gone\.parquet"):
        read(entries_of(tmp_path, ["000000001"]), tmp_path / "gone.parquet")
    (shards / "shard_00001.tar").unlink()
    with pytest.raises(DataError, match="1 of 2 shards are missing"):
        read(entries_of(tmp_path, ["000000001"]), shards)


def test_a_damaged_sample_is_a_bad_sample_in_training_and_an_error_in_an_evaluation(tmp_path: Path) -> None:
    """With the shard in the message; the other samples of the tar are read."""
    shards = shards_of(tmp_path / "shards")
    corpus = read(entries_of(tmp_path, ["000000000", "000000001"]), shards)
    damaged, whole = corpus.locate(np.arange(2))
    with (shards / "shard_00000.tar").open("r+b") as file:
        file.write(b"\1" * 512)
    reader = corpus.reader()
    with pytest.raises(BadSample, match=r"tar_damaged: .*shard_00000\.tar"):
        reader.read(damaged)
    assert reader.read(whole).images == [stored(1)]
    with pytest.raises(DataError, match=r"entry 0 of .*tar_damaged"):
        entry_image(corpus, 0, 32)


def test_a_packed_list_is_trained_on_and_validated_as_its_folder(tmp_path: Path) -> None:
    """`data_prep pack` stores the paths of a list as URLs: `check` accepts the shards in place of the folder."""
    recipe = str(retrieval_recipe(tmp_path))
    packed = tmp_path / "packed"
    command = ["pack", "--annotations", str(tmp_path / "train.json"), "--images", str(tmp_path / "images")]
    assert data_prep([*command, "--out", str(packed), "--shard-size", "5"]) == 0
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    flags = ["--run-dir", str(tmp_path / "new"), "--data.images", str(packed)]
    assert cli.main(["check", recipe, *flags]) == 0
    row = [{"image": "3.jpg", "text": "x"}]
    (tmp_path / "row.json").write_text(json.dumps(row))
    corpus = read(tmp_path / "row.json", packed)
    (ref,) = corpus.locate(torch.arange(1).numpy())
    assert ref.samples[0].path.endswith(".tar")
    assert corpus.reader().read(ref).images[0][:2] == b"\xff\xd8"
