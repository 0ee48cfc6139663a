"""COCO captions in Karpathy's split: `dataset_coco.json`, and COCO's own `captions_*.json` for URLs and licences.

ALBEF trains on Karpathy's train and restval. COCO's own train and val do not separate its evaluation images, so without
`dataset_coco.json` there is no list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from base.errors import UsageError
from data_prep.errors import InputError
from data_prep.lists.json_stream import stream_json_object
from data_prep.lists.row_list import read_note, whole_number
from data_prep.sources.source import ListedRow, ListOptions, Source, distinct, local_row
from samples.quote import quote

SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}


class _Photo(NamedTuple):
    """An image's entry in COCO's own file."""

    url: str | None
    licence: str | None


def read(files: Sequence[Path], options: ListOptions, left_out: Counter[str]) -> Iterator[ListedRow]:
    """One row an image with its captions, in the order of Karpathy's file. Memory: an entry for each COCO image.

    Raises: UsageError without exactly one of Karpathy's files.
    """
    kinds = {path: _kind(path) for path in files}
    splits = [path for path, kind in kinds.items() if kind == "karpathy"]
    if len(splits) != 1:
        raise UsageError(
            f"{len(splits)} of these {len(files)} files are Karpathy's dataset_coco.json",
            "give that one, and captions_train2014.json and captions_val2014.json beside it for URLs and licences",
        )
    photos: dict[int, _Photo] = {}
    for path, kind in kinds.items():
        if kind == "captions":
            photos.update(_photos(path))
    seen: set[int] = set()
    for image in karpathy_images(splits[0]):
        if image.get("split") not in SPLITS[options.split]:
            left_out["other_split"] += 1
            continue
        row = _row(image, photos, options, left_out, seen)
        if row is not None:
            yield row


def karpathy_images(path: Path) -> Iterator[dict[str, Any]]:
    """Entries of `dataset_coco.json`: filepath, filename, cocoid, split, sentences."""
    return (value for name, value in stream_json_object(path) if name == "images" and isinstance(value, dict))


def _kind(path: Path) -> str:
    for name, value in stream_json_object(path):
        if name == "images" and isinstance(value, dict):
            if "split" in value and "sentences" in value:
                return "karpathy"
            if "file_name" in value:
                return "captions"
            break
    raise InputError(
        f"{path} is neither Karpathy's dataset_coco.json nor COCO's captions_*.json", "see `data_prep sources`"
    )


def _photos(path: Path) -> dict[int, _Photo]:
    licences: dict[str | None, str | None] = {}
    listed: dict[int, tuple[str | None, str | None]] = {}
    for name, value in stream_json_object(path):
        if not isinstance(value, dict):
            continue
        if name == "images" and (number := whole_number(value.get("id"))) is not None:
            url = value.get("coco_url") or value.get("url")
            listed[number] = (url if isinstance(url, str) else None, read_note(value.get("license")))
        elif name == "licenses":
            licences[read_note(value.get("id"))] = read_note(value.get("url") or value.get("name"))
    return {number: _Photo(url, licences.get(licence)) for number, (url, licence) in listed.items()}


def _row(
    image: Mapping[str, Any],
    photos: Mapping[int, _Photo],
    options: ListOptions,
    left_out: Counter[str],
    seen: set[int],
) -> ListedRow | None:
    number, folder, name = whole_number(image.get("cocoid")), image.get("filepath"), image.get("filename")
    if number is None or not isinstance(folder, str) or not isinstance(name, str):
        return ListedRow(captions=[], rejected=f"bad_row: no cocoid, filepath or filename in {quote(image)}")
    if number in options.excluded_coco_ids:
        left_out["excluded_coco_image"] += 1
        return None
    if number in seen:
        return ListedRow(captions=[], id=str(number), rejected=f"duplicate_image: {number} is listed twice")
    seen.add(number)
    sentences = image.get("sentences") or []
    captions = [sentence.get("raw") for sentence in sentences if isinstance(sentence, dict)]
    photo = photos.get(number, _Photo(None, None))
    return local_row(
        f"{folder}/{name}" if folder else name,
        photo.url,
        distinct(captions, left_out),
        id=str(number),
        licence=photo.licence,
    )


COCO = Source(
    name="coco",
    read=read,
    options=("split", "excluded_coco_ids"),
    rows=113_287,
    rows_from="TensorFlow Datasets, coco_captions: train 82,783 and restval 30,504",
    expected_yield=1.0,
    yield_when="from the zips",
    yield_from="the archives are complete; URLs are the fallback",
    resolution="longest side 640 px",
    resolution_from="recalled",
    files=(
        ("dataset_coco.json (in caption_datasets.zip)", "Karpathy's split with the captions"),
        ("captions_train2014.json, captions_val2014.json", "optional: URLs and licences"),
        ("train2014.zip, val2014.zip", "the images, 19 GB"),
    ),
    licence="captions CC BY 4.0; each image has its Flickr licence, in captions_*.json",
    licence_from="recalled from cocodataset.org",
)
