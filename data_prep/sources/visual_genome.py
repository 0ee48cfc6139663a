"""Visual Genome: `region_descriptions.json`, whose phrases become captions, and `image_data.json`, where images are.

An entry's own id is `id` in the published file and `image_id` in its documentation; the `image_id` of its regions is
the one that is used. Of ALBEF's filters (issue 2 of its repository), duplicate sentences are always dropped; the
smallest area of a region and the images of evaluation sets are options, since their values are not published.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from base.errors import UsageError
from data_prep.lists.json_stream import stream_json_list
from data_prep.lists.row_list import whole_number
from data_prep.sources.source import ListedRow, ListOptions, Source, distinct, local_row
from samples.quote import quote


class _Image(NamedTuple):
    url: str | None
    coco_id: int | None


def read(files: Sequence[Path], options: ListOptions, left_out: Counter[str]) -> Iterator[ListedRow]:
    """One row an image, in the order of the regions' file. Memory: an entry for each image, one image's regions.

    Raises: UsageError without one file of either kind.
    """
    kinds = {path: _kind(path) for path in files}
    regions = [path for path, kind in kinds.items() if kind == "regions"]
    images = [path for path, kind in kinds.items() if kind == "images"]
    if len(regions) != 1 or len(images) != 1 or len(files) != 2:
        raise UsageError("visual_genome is region_descriptions.json and image_data.json", "give both, and nothing else")
    where = _images(images[0])
    seen: set[int] = set()
    for entry in stream_json_list(regions[0]):
        row = _row(entry, where, seen, options, left_out)
        if row is not None:
            yield row
    left_out["image_without_regions"] += len(where.keys() - seen)


def _kind(path: Path) -> str:
    first = next(stream_json_list(path), None)
    if isinstance(first, dict) and "regions" in first:
        return "regions"
    return "images" if isinstance(first, dict) and "url" in first else "neither"


def _images(path: Path) -> dict[int, _Image]:
    found = {}
    for entry in stream_json_list(path):
        number = whole_number(entry.get("image_id", entry.get("id"))) if isinstance(entry, dict) else None
        if number is not None:
            found[number] = _Image(entry.get("url"), whole_number(entry.get("coco_id")))
    return found


def _row(
    entry: Any, where: Mapping[int, _Image], seen: set[int], options: ListOptions, left_out: Counter[str]
) -> ListedRow | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("regions"), list):
        return ListedRow(captions=[], rejected=f"bad_row: no regions in {quote(entry)}")
    regions = [region for region in entry["regions"] if isinstance(region, dict)]
    named = next((region["image_id"] for region in regions if "image_id" in region), None)
    number = whole_number(entry.get("image_id", entry.get("id")) if named is None else named)
    if number is None:
        return ListedRow(captions=[], rejected=f"bad_row: no image_id in {quote(entry)}")
    image = where.get(number)
    listed_before = number in seen
    seen.add(number)
    if image is not None and image.coco_id in options.excluded_coco_ids:
        left_out["excluded_coco_image"] += 1
        return None
    if listed_before:
        return ListedRow(captions=[], id=str(number), rejected=f"duplicate_image: {number} is listed twice")
    path = _path_in_archive(image.url) if image else None
    if image is None or path is None:
        return ListedRow(captions=[], id=str(number), rejected=f"bad_row: image {number} is not in image_data.json")
    return local_row(path, image.url, distinct(_phrases(regions, options, left_out), left_out), id=str(number))


def _phrases(regions: Sequence[Mapping[str, Any]], options: ListOptions, left_out: Counter[str]) -> Iterator[str]:
    for region in regions:
        if not isinstance(region.get("phrase"), str):
            left_out["region_without_phrase"] += 1
        elif _area(region) < options.min_region_area:
            left_out["small_region"] += 1
        else:
            yield region["phrase"]


def _area(region: Mapping[str, Any]) -> float:
    width, height = region.get("width"), region.get("height")
    return width * height if isinstance(width, int | float) and isinstance(height, int | float) else 0.0


def _path_in_archive(url: str | None) -> str | None:
    """`VG_100K_2/1.jpg` of `https://.../VG_100K_2/1.jpg`: only the URL shows which of the zips an image is in."""
    if not isinstance(url, str):
        return None
    parts = PurePosixPath(urlsplit(url).path).parts[-2:]
    return "/".join(parts) if len(parts) == 2 and "/" not in parts and ".." not in parts else None


VISUAL_GENOME = Source(
    name="visual_genome",
    read=read,
    options=("min_region_area", "excluded_coco_ids"),
    rows=108_077,
    rows_from="dataset card; 5.4 million region descriptions",
    expected_yield=1.0,
    yield_when="from the zips",
    yield_from="the archives are complete; URLs are the fallback",
    resolution="longest side mostly 500 to 1024 px",
    resolution_from="recalled",
    files=(
        ("region_descriptions.json", "[{id or image_id, regions: [{image_id, phrase, width, height, ...}]}]"),
        ("image_data.json", "[{image_id, url, coco_id, ...}]"),
        ("images.zip, images2.zip", "the images: VG_100K and VG_100K_2"),
    ),
    licence="annotations CC BY 4.0; images from Flickr, each under its owner's terms",
    licence_from="dataset card",
)
