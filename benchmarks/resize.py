"""How images are made smaller, beside other ways: nearness to Lanczos, and processor time of decoding and resizing.

    python -m benchmarks.resize [--turns 60]

Four photographs of scikit-image, scaled to each first size and saved as JPEG at quality 95; each way decodes them and
makes them the second size. Prints one JSON object: for each way the least and the greatest of the four in dB (peak
signal to noise against decoding whole and Pillow's Lanczos) and in milliseconds of one core.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import numpy as np
import skimage.data
from PIL import Image

from data_prep.shards.image_encoding import shrink

Size = tuple[int, int]
SIZES: list[tuple[Size, Size]] = [((400, 300), (341, 256)), ((640, 480), (384, 288)), ((1024, 768), (384, 288))]
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=60, help="of each way over each photograph")
    flags = parser.parse_args()
    rows = [row for size, target in SIZES for row in compare(size, target, flags.turns)]
    about = {
        "rows": rows,
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "machine": platform.platform(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    print(json.dumps(about, indent=1))


def compare(size: Size, target: Size, turns: int) -> list[dict[str, object]]:
    """A row for each way, ours first."""
    bodies = [jpeg(name, size) for name in PHOTOGRAPHS]
    rows: list[dict[str, object]] = []
    for name, way in WAYS.items():
        near = [psnr(way(body, target), pillow(body, target, Image.Resampling.LANCZOS)) for body in bodies]
        took = [milliseconds(partial(way, body, target), turns) for body in bodies]
        row: dict[str, object] = {
            "from": size,
            "to": target,
            "way": name,
            "db": [min(near), max(near)],
            "ms": [min(took), max(took)],
        }
        rows.append(row)
    return rows


def jpeg(name: str, size: Size) -> bytes:
    buffer = io.BytesIO()
    photograph = Image.fromarray(getattr(skimage.data, name)())
    photograph.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def stored(body: bytes, target: Size) -> np.ndarray:
    """As `encode_image` does it, without the encoding."""
    image = Image.open(io.BytesIO(body))
    image.draft(None, target)
    image.load()
    return np.asarray(shrink(image, target))


def pillow(body: bytes, target: Size, filter_: Image.Resampling) -> np.ndarray:
    image = Image.open(io.BytesIO(body))
    image.load()
    return np.asarray(image.resize(target, filter_))


def img2dataset(body: bytes, target: Size) -> np.ndarray:
    """As its resizer does it by default: area averaging."""
    import cv2

    pixels = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return cv2.resize(pixels, target, interpolation=cv2.INTER_AREA)[:, :, ::-1]


WAYS: dict[str, Callable[[bytes, Size], np.ndarray]] = {
    "data_prep": stored,
    "whole, Pillow's bicubic": lambda body, target: pillow(body, target, Image.Resampling.BICUBIC),
    "whole, Pillow's Hamming": lambda body, target: pillow(body, target, Image.Resampling.HAMMING),
    "img2dataset": img2dataset,
}


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return round(float(10 * np.log10(255**2 / ((one.astype(float) - other) ** 2).mean())), 1)


def milliseconds(work: Callable[[], object], turns: int) -> float:
    work()
    began = time.process_time()
    for _ in range(turns):
        work()
    return round(1000 * (time.process_time() - began) / turns, 2)


if __name__ == "__main__":
    main()
