"""How long a start at a late step takes on a large manifest: `python -m benchmarks.start_step`.

Writes a manifest of 1,400 shards with 10,000 samples each (14 million rows, as large as the paper's corpus) and sparse
tars beside it, in which only the samples that are asked for are really written. Then starts the training loader of one
rank at several places of the epoch, each in a fresh process, and prints a table for docs/data_order.md; with --out
also JSON.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

SLOT = 65_536
"""Bytes of the tar that each sample has."""
SEED, MICRO_BATCH, NUM_LANES = 0, 64, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=1400)
    parser.add_argument("--samples", type=int, default=10_000, help="in each shard (default: 10000)")
    parser.add_argument("--window", type=int, default=8, help="data.shuffle_window_shards (default: 8)")
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--at", default="0,1,50,99", help="percent of the epoch (default: 0,1,50,99)")
    parser.add_argument("--weights", action="store_true", help="halves of the shards as two sources, shares 3 : 1")
    parser.add_argument("--dir", type=Path, help="keep the data here, and use what is here")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--measure", type=int, metavar="STEP", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.out and args.out.exists():
        parser.error(f"--out {args.out} exists: name another file")
    if args.measure is not None:
        print(json.dumps(measure(args)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        args.dir = args.dir or Path(temporary)
        rows = run(args)
    report(args, rows)


def run(args: argparse.Namespace) -> list[dict]:
    """Write the data, then measure each start in its own process."""
    began = time.monotonic()
    for folder in folders(args):
        write_manifest(folder, args.shards // len(folders(args)), args.samples)
    print(f"manifest written in {time.monotonic() - began:.0f} s", file=sys.stderr)
    rows = []
    for percent in map(int, args.at.split(",")):
        step = prepare(args, percent)
        words = [sys.executable, "-m", "benchmarks.start_step", "--measure", str(step), "--dir", str(args.dir)]
        words += ["--shards", str(args.shards), "--samples", str(args.samples), "--window", str(args.window)]
        words += ["--num-workers", str(args.num_workers), *(["--weights"] if args.weights else [])]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        rows.append({"percent": percent, "step": step} | json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], file=sys.stderr)
    return rows


def folders(args: argparse.Namespace) -> list[Path]:
    return [args.dir / "a", args.dir / "b"] if args.weights else [args.dir / "a"]


def write_manifest(folder: Path, num_shards: int, num_samples: int) -> None:
    """A manifest as `data_prep verify` writes it, one row group a shard, and sparse tars."""
    from data_prep.shards.manifest import ManifestWriter

    if (folder / "manifest.parquet").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    writer = ManifestWriter(folder)
    size = num_samples * SLOT + 10_240
    for shard in range(num_shards):
        name = f"{shard:05d}.tar"
        with open(folder / name, "wb") as file:
            file.truncate(size)
        first = shard * num_samples
        writer.add(
            {
                "path": name,
                "source": folder.name,
                "num_samples": num_samples,
                "bytes": size,
                "sha256": f"{shard:064x}",
                "keys": [f"{folder.name}-{first + number:09d}" for number in range(num_samples)],
                "offsets": [number * SLOT for number in range(num_samples)],
                "lengths": [SLOT] * num_samples,
                "listed": num_samples,
                "yield": 1.0,
                "failures": [],
                "tools": "{}",
                "arguments": "{}",
                "created": "2026-11-22T00:00:00+00:00",
            }
        )
    writer.publish()


def prepare(args: argparse.Namespace, percent: int) -> int:
    """Write the samples of two steps' first lane at that place of the epoch; returns the first of the steps."""
    from pipeline.data.corpus.manifest import read_manifest
    from pipeline.data.sampling.lane_plan import lane_order, lane_tasks

    manifest = read_manifest([str(folder) for folder in folders(args)])
    order = lane_order(
        manifest,
        seed=SEED,
        window_shards=args.window,
        weights=(3.0, 1.0) if args.weights else None,
        micro_batch_size=MICRO_BATCH,
        num_lanes=NUM_LANES,
    )
    step = order.steps_per_epoch * percent // 100
    num_tasks = 2 + 2 * args.num_workers + 1  # what the workers prefetch is read too
    for task in itertools.islice(lane_tasks(manifest, order, range(1), step), num_tasks):
        for place in range(task.size):
            ref = task.locations[place]
            write_sample(ref.path, ref.offset, ref.key)
    return step


def write_sample(path: str, offset: int, key: str) -> None:
    """A photograph-like JPEG of about 40 KiB with its record, into its slot of the sparse tar."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(offset)
    smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
        (384, 288), Image.Resampling.BICUBIC
    )
    noisy = np.clip(np.asarray(smooth).astype(np.int16) + rng.integers(-12, 13, (288, 384, 3)), 0, 255).astype(np.uint8)
    jpg = io.BytesIO()
    Image.fromarray(noisy).save(jpg, "JPEG", quality=85)
    record = json.dumps({"key": key, "captions": ["a made picture of smooth colours with some noise"]}).encode()
    slot = io.BytesIO()
    with tarfile.open(fileobj=slot, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in ((f"{key}.jpg", jpg.getvalue()), (f"{key}.json", record)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    data = slot.getvalue().rstrip(b"\0")
    assert len(data) < SLOT, len(data)
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def measure(args: argparse.Namespace) -> dict:
    """One start: seconds of each part, of the whole, and memory. Importing torch is counted separately."""
    began = time.monotonic()
    from albef.config import AlbefConfig, ObjectiveConfig
    from albef.inputs.tokenizer import AlbefTokenizer
    from pipeline.config.sections import AugmentConfig, DataConfig
    from pipeline.data.corpus.manifest import read_manifest
    from pipeline.data.loader import TrainingLoader
    from pipeline.tasks.pretraining.collate import PretrainBatcher

    tokenizer = AlbefTokenizer()
    imported, processor = time.monotonic(), time.process_time()
    names = tuple(str(folder) for folder in folders(args))
    manifest = read_manifest(names)
    read = time.monotonic()
    weights = (3.0, 1.0) if args.weights else None
    loader = TrainingLoader(
        manifest,
        data=DataConfig(
            manifests=names, weights=weights, num_workers=args.num_workers, shuffle_window_shards=args.window
        ),
        batcher=PretrainBatcher(
            model=AlbefConfig.base(),
            objective=ObjectiveConfig(),
            augment=AugmentConfig(),
            max_caption_words=30,
            tokenizer=tokenizer,
        ),
        seed=SEED,
        micro_batch_size=MICRO_BATCH,
        num_lanes=NUM_LANES,
        lanes=range(1),
    )
    first_task = next(loader_tasks(loader, args.measure))
    positioned, processor = time.monotonic(), time.process_time() - processor
    steps = loader.steps(args.measure)
    first = next(steps)
    batch = time.monotonic()
    assert first.step == args.measure and not first.skipped and first.lanes[0].keys == first_task.names
    following = time.monotonic()
    next(steps)
    second = time.monotonic()
    loader.close()
    return {
        "import_s": imported - began,
        "manifest_s": read - imported,
        "position_s": positioned - read,
        "start_s": positioned - imported,
        "start_processor_s": processor,
        "first_batch_s": batch - positioned,
        "second_batch_s": second - following,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def loader_tasks(loader, step: int):  # type: ignore[no-untyped-def]
    """The tasks the loader will hand out, for the time it takes to find the first one."""
    from pipeline.data.sampling.lane_plan import lane_tasks

    return lane_tasks(loader.manifest, loader.order, loader.lanes, step)


def report(args: argparse.Namespace, rows: list[dict]) -> None:
    sources = "two sources with weights" if args.weights else "one source"
    print(f"{args.shards:,} shards, {args.shards * args.samples:,} samples, {sources}, window {args.window},")
    print(f"micro-batch {MICRO_BATCH}, {args.num_workers} workers\n")
    names = (
        "manifest, s",
        "position, s",
        "start, s",
        "of it on a processor, s",
        "first batch, s",
        "second batch, s",
        "peak memory, MiB",
    )
    print(f"| start at | step | {' | '.join(names)} |\n|{' --- |' * (len(names) + 2)}")
    for row in rows:
        print(
            f"| {row['percent']}% | {row['step']:,} | {row['manifest_s']:.2f} | {row['position_s']:.3f} | "
            f"{row['start_s']:.2f} | "
            f"{row['start_processor_s']:.2f} | {row['first_batch_s']:.2f} | {row['second_batch_s']:.2f} | "
            f"{row['peak_rss_mib']:.0f} |"
        )
    if args.out:
        facts = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": platform.processor() or platform.machine(),
            "cpus": os.cpu_count(),
            "shards": args.shards,
            "samples": args.shards * args.samples,
            "window_shards": args.window,
            "num_workers": args.num_workers,
            "weights": args.weights,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(facts | {"starts": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
