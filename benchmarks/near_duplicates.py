"""How well near duplicates are found: distances of edited copies to their originals, and of originals to each other.

    python -m benchmarks.near_duplicates [--images DIR ...] [--limit 2000] [--window 0] [--json FILE]

Without `--images` the demo's pictures are used. Every original and every copy is stored as `data_prep` stores images
and hashed as `data_prep filter` hashes them. Prints a table: for each edit the share found at several thresholds, and
how many pairs of different originals are within them. `--window PX` cuts larger pictures into squares that do not
overlap, to get many different ones from few photographs.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from data_prep.filters.banding import band_keys, num_key_bits, tables
from data_prep.filters.evaluation_sets import SUFFIXES
from data_prep.filters.perceptual_hash import NUM_BYTES, as_words, distances, hash_jpeg
from data_prep.output.job import ImageSettings
from data_prep.shards.image_encoding import encode_image

ASSETS = Path(__file__).parents[1] / "demo" / "assets"
THRESHOLDS = (8, 12, 16, 20, 24, 32, 48)
LARGE = 14_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", type=Path, help="folders of pictures")
    parser.add_argument("--limit", type=int, default=2000, help="pictures at most, drawn by seed 0")
    parser.add_argument("--window", type=int, default=0, help="side of squares to cut, in pixels")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    flags = parser.parse_args()
    if flags.json and flags.json.exists():
        parser.error(f"--json {flags.json} exists: name another file")
    pictures = list(windows(load(flags.images), flags.window) if flags.window else load(flags.images))
    pictures = random.Random(0).sample(pictures, min(flags.limit, len(pictures)))
    hashes = [hash_of(picture) for picture in pictures]
    originals = [(picture, hashed) for picture, hashed in zip(pictures, hashes, strict=True) if hashed is not None]
    words = as_words(np.stack([hashed for _, hashed in originals]))
    print(f"{len(words)} originals, {len(pictures) - len(words)} flat ones left out")
    print("| copy | median | 95% | " + " | ".join(f"<= {t}" for t in THRESHOLDS) + " | met at 14M |")
    print("| --- | --- | --- | " + "--- | " * len(THRESHOLDS) + "--- |")
    figures = {}
    for name, edit in EDITS.items():
        copies = [hash_of(edit(picture)) for picture, _ in originals]
        copied = as_words(np.stack([np.zeros(NUM_BYTES, np.uint8) if hashed is None else hashed for hashed in copies]))
        apart = distances(words, copied)
        shares = [float((apart <= t).mean()) for t in THRESHOLDS]
        near = apart <= 32
        met = float(meets(words[near], copied[near]).mean()) if near.any() else 0.0
        figures[name] = {"median": float(np.median(apart)), "shares": shares, "met": met}
        tail = " | ".join(f"{share:.1%}" for share in shares)
        print(f"| {name} | {np.median(apart):.0f} | {np.percentile(apart, 95):.0f} | {tail} | {met:.1%} |", flush=True)
    close = pairs_within(words)
    print(f"pairs of different originals, of {len(words) * (len(words) - 1) // 2}: {close}")
    if flags.json:
        flags.json.write_text(json.dumps({"originals": len(words), "edits": figures, "pairs": close}, indent=1))


def load(folders: list[Path] | None) -> Iterator[Image.Image]:
    """Pictures on white, RGB."""
    if folders is None:
        with zipfile.ZipFile(ASSETS / "pictures.zip") as archive:
            for name in sorted(archive.namelist()):
                yield opened(io.BytesIO(archive.read(name)))
        folders = [ASSETS / "photos"]
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES:
                yield opened(path)


def opened(file: Path | io.BytesIO) -> Image.Image:
    data = file.read_bytes() if isinstance(file, Path) else file.getvalue()
    return Image.open(io.BytesIO(encode_image(data, ImageSettings(image_size=2000)).jpeg)).convert("RGB")


def windows(pictures: Iterator[Image.Image], side: int) -> Iterator[Image.Image]:
    for picture in pictures:
        for top in range(0, picture.height - side + 1, side):
            for left in range(0, picture.width - side + 1, side):
                yield picture.crop((left, top, left + side, top + side))


def jpeg(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def hash_of(picture: Image.Image) -> np.ndarray | None:
    return hash_jpeg(encode_image(jpeg(picture, 95), ImageSettings()).jpeg)


def resized(share: float) -> Callable[[Image.Image], Image.Image]:
    return lambda p: p.resize((round(p.width * share), round(p.height * share)), Image.Resampling.BICUBIC)


def recompressed(quality: int) -> Callable[[Image.Image], Image.Image]:
    return lambda p: Image.open(io.BytesIO(jpeg(p, quality))).convert("RGB")


def cropped(share: float) -> Callable[[Image.Image], Image.Image]:
    """Cut that share off width and height, half of it on each side."""

    def crop(picture: Image.Image) -> Image.Image:
        left, top = round(share / 2 * picture.width), round(share / 2 * picture.height)
        return picture.crop((left, top, picture.width - left, picture.height - top))

    return crop


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "resized to 75%": resized(0.75),
    "resized to 50%": resized(0.5),
    "JPEG quality 75": recompressed(75),
    "JPEG quality 30": recompressed(30),
    "mirrored": ImageOps.mirror,
    "mirrored, 50%, quality 75": lambda p: recompressed(75)(resized(0.5)(ImageOps.mirror(p))),
    "cropped by 2%": cropped(0.02),
    "cropped by 5%": cropped(0.05),
    "cropped by 10%": cropped(0.1),
    "cropped by 2%, mirrored, quality 75": lambda p: recompressed(75)(ImageOps.mirror(cropped(0.02)(p))),
}


def meets(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n,) bool: whether a pair meets in a table of a corpus of 14 million."""
    num_bits = num_key_bits(LARGE)
    met = np.zeros(len(one), dtype=bool)
    for bits in tables(num_bits):
        met |= band_keys(one, bits[:num_bits]) == band_keys(other, bits[:num_bits])
    return met


def pairs_within(words: np.ndarray) -> dict[int, int]:
    """By threshold; every pair is compared."""
    counts = dict.fromkeys(THRESHOLDS, 0)
    for number in range(1, len(words)):
        apart = distances(words[:number], np.repeat(words[number][None], number, axis=0))
        for threshold in THRESHOLDS:
            counts[threshold] += int((apart <= threshold).sum())
    return counts


if __name__ == "__main__":
    main()
