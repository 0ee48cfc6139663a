"""How long a save stops training, when training waits for it and when it is written in the background: `python -m
benchmarks.save_pause`.

One rank at ZeRO 1 in fp32 takes one step of a small batch, then saves both ways in turn, `--repeat` times each, and
keeps stepping while a background save is being written. Prints one JSON object with medians in seconds and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from pipeline.config.resolve import load_config
from pipeline.config.sections import CheckpointConfig
from pipeline.engine import distributed
from pipeline.tasks.pretraining.maker import PRETRAINING
from pipeline.train import build, save, train_step
from pipeline.watch.heartbeat import Heartbeat
from tests.support.shards import write_corpus
from tests.support.training_runs import newest


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", "base"], default="base")
    parser.add_argument("--repeat", type=int, default=3)
    flags = parser.parse_args()
    distributed.prepare_deepspeed_import()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder / "shards", [16])
        recipe = folder / "save.yaml"
        recipe.write_text(
            f"model: {{size: {flags.size}}}\n"
            "batch: {global_batch_size: 2, micro_batch_size: 2}\n"
            f"data: {{manifests: ['{folder / 'shards'}'], num_workers: 0}}\n"
            "deepspeed: {config: zero1_fp32}\n"
            "logging: {tensorboard: false, images_every: 0}\n"
            "validation: {every_steps: 0}\n"
        )
        print(json.dumps(measure(folder / "run", recipe, flags.size, flags.repeat)))


def measure(run_dir: Path, recipe: Path, size: str, repeat: int) -> dict[str, object]:
    """Save `repeat` times each way."""
    run = load_config(recipe)
    world = distributed.init()
    with Heartbeat(world, 0) as heartbeat:
        training = build(run, run_dir, world, heartbeat, PRETRAINING)
        training.saver.config = CheckpointConfig(keep_last=1)
        steps = training.loader.steps()
        train_step(training.parts, next(steps), heartbeat.phase)
        paused: dict[str, list[float]] = {"waited": [], "background": []}
        steps_meanwhile, number = 0, 1
        for _ in range(repeat):
            for way, times in paused.items():
                number += 1
                began = time.monotonic()
                save(training, step=number, epoch=0, wait=False)
                if way == "waited":
                    training.saver.finish()
                times.append(time.monotonic() - began)
                while way == "background":
                    train_step(training.parts, next(steps), heartbeat.phase)
                    steps_meanwhile += 1
                    began = time.monotonic()
                    published = training.saver.publish_if_written() is not None
                    times[-1] += time.monotonic() - began
                    if published:
                        break
        num_bytes = sum(file.stat().st_size for file in newest(run_dir).iterdir())
        training.loader.close()
    distributed.shutdown()
    waited, background = (statistics.median(times) for times in paused.values())
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores",
        "torch": torch.__version__,
        "size": size,
        "checkpoint_gib": round(num_bytes / 2**30, 3),
        "pause_waited_s": round(waited, 3),
        "pause_background_s": round(background, 3),
        "ratio": round(waited / background, 1),
        "steps_taken_during_background_saves": steps_meanwhile,
    }


if __name__ == "__main__":
    main()
