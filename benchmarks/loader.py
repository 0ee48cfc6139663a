"""How fast training data is read, beside what one would write with torchvision: `python -m benchmarks.loader`.

    python -m benchmarks.loader [--workers 1,2] [--batch 64] [--batches 25] [--image-size 256] [--repeat 2]

Stored samples (384 x 288, photograph-like) as micro-batches of images. Ours: `TrainingLoader`, whole: reading the tars
by ranges, captions, tokens, masks; images as bytes, which the device normalises. The other side, in normalised fp32:
torch's DataLoader over the same JPEGs in memory, torchvision's RandomResizedCrop (bicubic), flip, RandAugment(2, 7) and
Normalize on Pillow images, and nothing else. Its RandAugment always applies both operations, ours each half of the
time, as the original. They take turns; prints one JSON object with the medians. Processor time is the workers'.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from albef.config import AlbefConfig, ObjectiveConfig
from albef.inputs.preprocess import MEAN, STD
from albef.inputs.tokenizer import AlbefTokenizer
from benchmarks.download import TICKS_PER_S, photo
from benchmarks.verify import DISTINCT, verify, write
from data_prep.output.job import ImageSettings
from data_prep.shards.image_encoding import encode_image
from pipeline.config.sections import AugmentConfig, DataConfig
from pipeline.data.corpus.manifest import read_manifest
from pipeline.data.loader import TrainingLoader
from pipeline.tasks.pretraining.collate import PretrainBatcher

SHARDS, SHARD_SIZE, SIDE = 8, 500, 288


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=25, help="measured, after the first")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=2, help="turns; the median is printed")
    flags = parser.parse_args()
    stored = [encode_image(photo(number, SIDE), ImageSettings()).jpeg for number in range(DISTINCT)]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        write(corpus, SHARDS * SHARD_SIZE, SHARD_SIZE, SIDE)
        verify(corpus, processes=1, share=0)
        rows = [compare(corpus, stored, int(workers), flags) for workers in flags.workers.split(",")]
    about = {
        **vars(flags),
        "rows": rows,
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
        "machine": platform.platform(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    print(json.dumps(about, indent=1))


def compare(root: Path, stored: list[bytes], workers: int, flags: argparse.Namespace) -> dict[str, object]:
    runs: dict[str, list[tuple[float, float]]] = {"pipeline": [], "torchvision": []}
    for _ in range(flags.repeat):
        runs["pipeline"].append(ours(root, workers, flags))
        runs["torchvision"].append(theirs(stored, workers, flags))
    (rate, cpu), (their_rate, their_cpu) = (
        (statistics.median(rate for rate, _ in turns), statistics.median(cpu for _, cpu in turns))
        for turns in runs.values()
    )
    return {
        "workers": workers,
        "images_per_s": [round(rate, 1), round(their_rate, 1)],
        "images_per_s_ratio": round(rate / their_rate, 3),
        "cpu_ms_per_image": [round(cpu, 2), round(their_cpu, 2)],
        "cpu_per_image_ratio": round(cpu / their_cpu, 3),
    }


def ours(root: Path, workers: int, flags: argparse.Namespace) -> tuple[float, float]:
    """Images a second, and milliseconds of the workers' processor time an image."""
    loader = TrainingLoader(
        read_manifest([str(root)]),
        data=DataConfig(num_workers=workers),
        batcher=PretrainBatcher(
            model=AlbefConfig(image_size=flags.image_size),
            objective=ObjectiveConfig(),
            augment=AugmentConfig(),
            max_caption_words=30,
            tokenizer=AlbefTokenizer(),
        ),
        seed=0,
        micro_batch_size=flags.batch,
        num_lanes=1,
        lanes=range(1),
    )
    steps = loader.steps()
    first = next(steps)
    assert first.lanes[0].image.shape == (flags.batch, 3, flags.image_size, flags.image_size)
    try:
        return measure(steps, [process.pid for process in loader._workers._processes()], flags)
    finally:
        loader.close()


class Jpegs(Dataset):
    """The baseline's samples, without end."""

    def __init__(self, stored: list[bytes], size: int) -> None:
        from torchvision.transforms import v2

        self.stored = stored
        bicubic = v2.InterpolationMode.BICUBIC
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=(0.2, 1.0), interpolation=bicubic),
                v2.RandomHorizontalFlip(),
                v2.RandAugment(2, 7),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(io.BytesIO(self.stored[index % len(self.stored)])).convert("RGB"))


def theirs(stored: list[bytes], workers: int, flags: argparse.Namespace) -> tuple[float, float]:
    samples = Jpegs(stored, flags.image_size)
    batches: Any = iter(DataLoader(samples, flags.batch, num_workers=workers, multiprocessing_context="forkserver"))
    assert next(batches).shape == (flags.batch, 3, flags.image_size, flags.image_size)
    return measure(batches, [process.pid for process in batches._workers], flags)


def measure(batches: Iterator[object], workers: list[int], flags: argparse.Namespace) -> tuple[float, float]:
    began, cpu_s = time.monotonic(), sum(map(processor_s, workers))
    for _ in range(flags.batches):
        next(batches)
    images = flags.batches * flags.batch
    seconds, cpu_s = time.monotonic() - began, sum(map(processor_s, workers)) - cpu_s
    return images / seconds, 1000 * cpu_s / images


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


if __name__ == "__main__":
    main()
