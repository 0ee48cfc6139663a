"""REFER's files of RefCOCO, RefCOCO+ and RefCOCOg, `refs(SPLIT_BY).p` and `instances.json`, to lists of phrases.

They have the keys of ALBEF's `refcoco+_train.json`, and the box, the image's number and size, and the split besides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import InputError
from data_prep.lists.json_stream import stream_json_object
from data_prep.lists.plain_pickle import load_plain
from samples.plain_file import read_plain
from samples.quote import quote

SPLIT_BY = ("unc", "umd", "google")
"""Who divided the phrases: `unc` RefCOCO and RefCOCO+, with testA (people) and testB (other things); `umd` and `google`
RefCOCOg; `google` also RefCOCO."""
FILE_OF = {"train": "train", "val": "val", "test": "test", "testA": "test", "testB": "test"}
"""Split -> the list it goes to, as ALBEF's authors have them."""
MAX_REFS_BYTES = 1 << 30
FAULTS_SHOWN = 5


@dataclass(frozen=True)
class _Image:
    name: str
    width: int
    height: int


@dataclass(frozen=True)
class Phrases:
    """The entries of each list, and what they show of the split."""

    lists: dict[str, list[dict[str, Any]]]
    """By the names in FILE_OF; in the order of the files."""
    shared_images: dict[str, int]
    """For each split but train: its images that are in train too."""

    def counts(self) -> dict[str, dict[str, int]]:
        """References, phrases and images of each split."""
        found: dict[str, dict[str, int]] = {}
        for entries in self.lists.values():
            for split in Counter(entry["split"] for entry in entries):
                mine = [entry for entry in entries if entry["split"] == split]
                found[split] = {
                    "references": len({entry["ref_id"] for entry in mine}),
                    "phrases": len(mine),
                    "images": len({entry["image_id"] for entry in mine}),
                }
        return found


def read_phrases(refs_file: Path, instances_file: Path, *, prefix: str) -> Phrases:
    """Every phrase of the references, one entry each.

    Args:
        prefix: put before the images' names, such as `train2014/`.

    Raises: InputError for files that are not REFER's, or do not belong together.
    """
    refs = _read_refs(refs_file)
    images, boxes = _read_instances(instances_file)
    lists: dict[str, list[dict[str, Any]]] = {}
    images_of: dict[str, set[int]] = {}
    faults: list[str] = []
    for number, ref in enumerate(refs):
        try:
            for entry in _entries(ref, images, boxes, prefix):
                lists.setdefault(FILE_OF[entry["split"]], []).append(entry)
                images_of.setdefault(entry["split"], set()).add(entry["image_id"])
        except ValueError as error:
            faults.append(f"reference {number} {error}")
    if faults or not lists:
        shown = "\n  ".join(faults[:FAULTS_SHOWN]) or "it holds none"
        raise InputError(
            f"{quote(refs_file)}: {len(faults):,} of {len(refs):,} references cannot be used:\n  {shown}",
            "give refs(...).p and instances.json of one data set, as REFER has them in one folder",
        )
    train = images_of.get("train", set())
    shared = {split: len(found & train) for split, found in images_of.items() if split != "train"}
    return Phrases(lists, shared)


def _entries(
    ref: Any, images: dict[int, _Image], boxes: dict[int, tuple[int, list[float]]], prefix: str
) -> Iterator[dict[str, Any]]:
    """An entry for each phrase of a reference. Raises: ValueError with what is wrong with it."""
    if not isinstance(ref, dict):
        raise ValueError(f"is a {type(ref).__name__}")
    ref_id, ann_id, image_id = (_number(ref, name) for name in ("ref_id", "ann_id", "image_id"))
    split, sentences = ref.get("split"), ref.get("sentences")
    if split not in FILE_OF:
        raise ValueError(f"has the split {quote(repr(split), 40)}, which is none of {', '.join(FILE_OF)}")
    if image_id not in images:
        raise ValueError(f"has the image_id {image_id}, which instances.json lacks")
    if ann_id not in boxes or boxes[ann_id][0] != image_id:
        raise ValueError(f"has the ann_id {ann_id}, which is no box of image {image_id} in instances.json")
    if not isinstance(sentences, list) or not sentences:
        raise ValueError("has no sentences")
    image = images[image_id]
    for sentence in sentences:
        text = sentence.get("sent") if isinstance(sentence, dict) else None
        if not isinstance(text, str):
            raise ValueError("has a sentence without a text as sent")
        yield {
            "image": prefix + image.name,
            "text": text,
            "ref_id": ref_id,
            "image_id": image_id,
            "split": split,
            "box": boxes[ann_id][1],
            "width": image.width,
            "height": image.height,
        }


def _number(values: dict[Any, Any], name: str) -> int:
    if type(value := values.get(name)) is not int:
        raise ValueError(f"has {quote(repr(value), 40)} as {name}, which is no whole number")
    return value


def _read_refs(path: Path) -> list[Any]:
    try:
        refs = load_plain(read_plain(path, MAX_REFS_BYTES))
    except OSError as error:
        raise InputError(f"{quote(path)}: {error.strerror}", "give a folder of REFER") from error
    except ValueError as error:
        raise InputError(f"{quote(path)} cannot be read: {error}", "get REFER's file again") from error
    if not isinstance(refs, list):
        raise InputError(f"{quote(path)} holds a {type(refs).__name__}, not a list of references", "get it again")
    return refs


def _read_instances(path: Path) -> tuple[dict[int, _Image], dict[int, tuple[int, list[float]]]]:
    """Images by id; of each annotation by id its image and its box."""
    images: dict[int, _Image] = {}
    boxes: dict[int, tuple[int, list[float]]] = {}
    for name, value in stream_json_object(path):
        if name not in ("images", "annotations") or not isinstance(value, dict):
            continue
        try:
            if name == "images":
                file_name = value.get("file_name")
                if not isinstance(file_name, str):
                    raise ValueError("has no file_name")
                images[_number(value, "id")] = _Image(file_name, _number(value, "width"), _number(value, "height"))
            else:
                boxes[_number(value, "id")] = _number(value, "image_id"), _box(value.get("bbox"))
        except ValueError as error:
            raise InputError(
                f"{quote(path)}: one of {name} {error}", "give the instances.json of REFER's data set"
            ) from None
    return images, boxes


def _box(value: Any) -> list[float]:
    if not isinstance(value, list) or len(value) != 4 or not all(type(edge) in (int, float) for edge in value):
        raise ValueError(f"has {quote(repr(value), 40)} as bbox, which is no [x, y, width, height]")
    return [float(edge) for edge in value]
