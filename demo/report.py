"""Collects what a finished run left and writes the report page."""

from __future__ import annotations

import os
import platform
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from albef.pretrained import Albef
from base import atomic_file
from demo import examples
from demo.page import Page, render
from demo.pictures import PictureArchive, read_pictures
from demo.results import read_ingestion, read_json, read_scalars
from demo.server import FAULTS
from demo.settings import Layout, Record
from demo.url_lists import BROKEN, SPLITS, chosen

CREDITS = (
    "Pictures: Noto Emoji (Google, Apache-2.0), Twemoji (Twitter and contributors, CC-BY-4.0), EmojiOne 2.3 "
    "(CC-BY-4.0), Open Clip Art Library (public domain), scaled; scenes composed of them. Captions: Unicode CLDR. "
    "Photographs: Stéfan van der Walt, Rachel Michetti (CC0), SpaceX (public domain). More in "
    "demo/assets/ATTRIBUTION.md."
)
HEADLINE = (
    "Pictures were served over HTTP, downloaded into verified shards, a model was pretrained on them with "
    "DeepSpeed, exported, loaded again, and measured on pictures it had not seen."
)


def write_report(layout: Layout, record: Record) -> None:
    """Build the page and publish it in one rename."""
    albef = Albef.from_pretrained(layout.export)
    archive = PictureArchive()
    seed = record.settings.seed
    gallery = examples.Gallery(albef, archive, chosen("test", record.settings.pictures))
    few = min(7, len(gallery.names))
    trained = read_json(layout.retrieval("trained"))
    curves = read_scalars(layout.metrics)
    seconds = sum(stage["seconds"] for stage in record.stages.values())
    count, chance = f"{trained['num_images']:.0f}", [trained[f"chance_t2i_recall_at_{k}"] for k in (1, 10)]
    page = Page(
        headline=f"{datetime.now(UTC):%d %B %Y}. {HEADLINE}",
        tiles=[
            (f"{trained['t2i_recall_at_1']:.1f}%", f"the right one first, of {count} (chance {chance[0]:.2f}%)"),
            (f"{trained['t2i_recall_at_10']:.1f}%", f"among the first ten (chance {chance[1]:.1f}%)"),
            (f"{last(curves, 'data/samples_seen'):,.0f}", "pairs seen in training"),
            (f"{seconds / 60:.1f} min", "from the first request to the last figure"),
        ],
        untrained=read_json(layout.retrieval("untrained")),
        trained=trained,
        curves=curves,
        text_queries=examples.text_queries(gallery, few, seed),
        own_queries=examples.own_queries(gallery),
        image_queries=examples.image_queries(gallery, few, seed),
        photo_maps=examples.photo_maps(albef),
        scene_maps=examples.scene_maps(albef, archive, 4, seed),
        pointing=str(examples.pointing(albef, archive, read_pictures("test_scenes"))),
        ingestion=[read_ingestion(split, layout.manifest(split)) for split in SPLITS],
        faults=[(FAULTS[fault], count) for fault, count in Counter(BROKEN).items()],
        trained_by=trained_by(layout),
        stages=[(name, stage["seconds"], stage["command"]) for name, stage in record.stages.items()],
        credits=CREDITS,
    )
    atomic_file.write_text(layout.report, render(page))


def trained_by(layout: Layout) -> list[tuple[str, str]]:
    """What trained the model, in words: machine, ranks, DeepSpeed, steps, speed, size."""
    curves = read_scalars(layout.metrics)
    environment = read_json(layout.root / "env.json")
    ds = read_json(layout.root / "ds_config.json")
    precision = "bf16" if ds.get("bf16", {}).get("enabled") else "fp32"
    ranks = f"{environment['world_size']} rank{'s' if environment['world_size'] != 1 else ''}"
    stage = f"DeepSpeed {version('deepspeed')} ZeRO-{ds['zero_optimization']['stage']} {precision}"
    micro = ds["train_micro_batch_size_per_gpu"]
    speed = median([value for _, value in curves.get("speed/samples_per_s", [])])
    size = sum(path.stat().st_size for path in layout.export.glob("*.safetensors"))
    return [
        ("machine", f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}"),
        ("trained by", f"{ranks}, {stage}, torch {version('torch')}"),
        (
            "steps",
            f"{last_step(curves):,} of {ds['train_batch_size']} pairs in lanes of {micro}; {speed:.0f} pairs a second",
        ),
        ("model", f"{size / 4e6:.1f} million parameters, {size / 1e6:.0f} MB"),
    ]


def last(curves: dict[str, list[tuple[float, float]]], name: str) -> float:
    """The last value of a scalar; 0 when it was never logged."""
    return curves[name][-1][1] if curves.get(name) else 0.0


def last_step(curves: dict[str, list[tuple[float, float]]]) -> int:
    """The last step of any scalar."""
    return int(max((points[-1][0] for points in curves.values()), default=0))


def median(values: list[float]) -> float:
    """The middle value, 0 of none."""
    return sorted(values)[len(values) // 2] if values else 0.0


def processor() -> str:
    """Name of the GPU if there is one, else of the processor."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
