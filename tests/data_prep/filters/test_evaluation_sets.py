"""Evaluation sets in each form they come in, and the matching against comparing all with all."""

from __future__ import annotations

import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageOps

from data_prep.errors import InputError
from data_prep.filters.evaluation_sets import EvaluationImages, EvaluationSet, hash_sets, nearest
from data_prep.filters.perceptual_hash import MIRROR, as_words, distances
from tests.support.filtering import detailed, pack


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures in a folder and one below it, and a file that is none."""
    root = tmp_path_factory.mktemp("images")
    (root / "val2014").mkdir()
    for number in range(3):
        detailed(number, 90, 80).save(root / "val2014" / f"{number}.jpg", quality=95)
    detailed(3, 90, 80).save(root / "3.png")
    (root / "readme.txt").write_text("no image")
    return root


def hashed(folder: Path, *sets: EvaluationSet) -> EvaluationImages:
    folder.mkdir(exist_ok=True)
    with ThreadPoolExecutor(1) as pool:
        return hash_sets(list(sets), folder, pool, 1)


def test_a_folder_a_list_and_shards_give_the_same_images(images: Path, tmp_path: Path) -> None:
    """Names differ by form; the looks of a JPEG of the folder and of the shard packed from it are nearly the same."""
    (tmp_path / "list.json").write_text(
        json.dumps([{"image": f"val2014/{n}.jpg", "caption": ["x"]} for n in (0, 1, 2, 1)] + [{"images": ["3.png"]}])
    )
    shards = pack(tmp_path, "test", [(detailed(number, 90, 80), "a picture") for number in range(4)])
    found = hashed(
        tmp_path / "features",
        EvaluationSet("folder", images, images),
        EvaluationSet("listed", tmp_path / "list.json", images),
        EvaluationSet("shards", shards, shards),
    )
    assert found.names.to_pylist() == [
        *("folder/3.png", "folder/val2014/0.jpg", "folder/val2014/1.jpg", "folder/val2014/2.jpg"),
        *("listed/val2014/0.jpg", "listed/val2014/1.jpg", "listed/val2014/2.jpg", "listed/3.png"),
        *(f"shards/test-00000000{number}" for number in range(4)),
    ]
    assert distances(found.words[[1, 2, 3, 0]], found.words[4:8]).tolist() == [0, 0, 0, 0]
    assert distances(found.words[4:8], found.words[8:]).max() <= 8
    assert len(set(found.digests.values())) == 3
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()}
    again = hashed(tmp_path / "features", EvaluationSet("listed", tmp_path / "list.json", images))
    assert again.names.to_pylist() == found.names.to_pylist()[4:8]
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()} == times


def test_images_may_lie_in_a_zip(images: Path, tmp_path: Path) -> None:
    """As the set itself, without macOS's companions, and as the root of a list: the looks of the folder."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted(images.rglob("*")):
            archive.write(path, path.relative_to(images))
        archive.writestr("__MACOSX/val2014/._0.jpg", b"not a picture")
    names = [f"val2014/{number}.jpg" for number in range(3)]
    (tmp_path / "list.json").write_text(json.dumps([{"image": name} for name in names]))
    found = hashed(
        tmp_path / "features",
        EvaluationSet("folder", images, images),
        EvaluationSet("zip", tmp_path / "a.zip", tmp_path),
        EvaluationSet("listed", tmp_path / "list.json", tmp_path / "a.zip"),
    )
    assert found.names.to_pylist()[4:] == [
        *("zip/3.png", *(f"zip/{n}" for n in names)),
        *(f"listed/{n}" for n in names),
    ]
    assert found.words[4:8].tolist() == found.words[:4].tolist()
    assert found.words[8:].tolist() == found.words[1:4].tolist()


def test_a_set_that_is_not_whole_is_refused(images: Path, tmp_path: Path) -> None:
    """A missing image, a broken one, an empty folder, entries without an image: no decontamination against a part."""
    lists = {
        "gone": ([{"image": "val2014/0.jpg"}, {"image": "val2014/9.jpg"}], "1 of 2 images are not below"),
        "text": ([{"image": "readme.txt"}], r"readme.txt: not_an_image"),
        "none": ([{"caption": "x"}], "entry 0 names no image"),
        "empty": ([], "has no images"),
    }
    for name, (entries, message) in lists.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(entries))
        with pytest.raises(InputError, match=message):
            hashed(tmp_path / "features", EvaluationSet(name, path, images))
    with pytest.raises(InputError, match="not found"):
        hashed(tmp_path / "features", EvaluationSet("nowhere", tmp_path / "nowhere", tmp_path))


def test_a_mirrored_and_resized_copy_is_matched(images: Path, tmp_path: Path) -> None:
    """By the image it was made from, and by no other."""
    found = hashed(tmp_path / "features", EvaluationSet("folder", images, images))
    np.save(tmp_path / "evaluation.npy", found.words)
    copies = tmp_path / "copies"
    copies.mkdir()
    ImageOps.mirror(detailed(2, 180, 160)).save(copies / "a.png")
    detailed(9, 90, 80).save(copies / "b.png")
    words = hashed(tmp_path / "features", EvaluationSet("copies", copies, copies)).words
    numbers, apart = nearest(words, tmp_path / "evaluation.npy", 32)
    assert [found.names[int(numbers[0])].as_py(), int(numbers[1])] == ["folder/val2014/2.jpg", -1]
    assert apart[0] <= 32


@pytest.mark.parametrize("num_images", [3, 40, 3000])
def test_the_nearest_is_that_of_all_pairs(num_images: int, tmp_path: Path) -> None:
    """Copies with up to 30 bits changed, some mirrored, by one table or many; at most three of 300 are missed."""
    rng = np.random.default_rng(num_images)
    images = rng.integers(0, 256, (num_images, 32), dtype=np.uint8)
    bits = np.unpackbits(images, axis=1)[rng.integers(0, num_images, 400)]
    for row in bits:
        row[rng.choice(256, rng.integers(0, 31), replace=False)] ^= 1
    samples = np.packbits(bits, axis=1)
    samples[::3] ^= MIRROR
    samples[::4] = rng.integers(0, 256, (100, 32), dtype=np.uint8)
    path = tmp_path / "evaluation.npy"
    np.save(path, as_words(images))
    numbers, apart = nearest(as_words(samples), path, 32)
    words = as_words(images)
    misses = 0
    for number, distance, sample in zip(numbers.tolist(), apart.tolist(), as_words(samples), strict=True):
        all_pairs = distances(words, np.repeat(sample[None], num_images, axis=0))
        if all_pairs.min() > 32:
            assert number == -1
        elif number == -1:
            misses += 1
        else:
            assert (number, distance) == (int(all_pairs.argmin()), int(all_pairs.min()))
    assert misses <= 3
