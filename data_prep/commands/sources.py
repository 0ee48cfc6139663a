"""`data_prep sources`: what each source is, how many of its images are still there, and the disk it takes."""

from __future__ import annotations

import argparse
import json
from typing import Any

from data_prep.commands.flags.job_flags import add_processes, num_processes
from data_prep.sources.catalogue import SOURCES
from data_prep.sources.source import Source

KIB_STORED = 49.0
KIB_ORIGINAL = 154.0
SHARD_ROWS = 10_000


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("--json", action="store_true", help="everything, with the origin of each number, as JSON")
    add_processes(parser)


def run(flags: argparse.Namespace) -> int:
    """Exit code: 0."""
    described = [describe(source, num_processes(flags)) for source in SOURCES.values()]
    if flags.json:
        print(json.dumps(described, indent=1))
        return 0
    line = "{:<14}{:>11}{:>7} {:<14}{:>11}{:>8}{:>11}  {}"
    print(line.format("source", "rows", "yield", "when", "images", "shards", "in flight", "published images"))
    for one in described:
        print(
            line.format(
                one["name"],
                one["rows"],
                f"{one['expected_yield']:.0%}",
                one["yield_when"],
                one["images"],
                f"{one['shards_gib']:.0f} GiB",
                f"{one['in_flight_gib']:.0f} GiB",
                one["resolution"],
            )
        )
    for one in described:
        print(f"\n{one['name']}: {one['licence']}")
        for file in one["files"]:
            print(f"  {file['name']}: {file['format']}")
    print("\nShards at shortest side 288; originals in flight for this many workers:", num_processes(flags))
    print("Where each number is from: --json, and docs/sources.md")
    return 0


def describe(source: Source, processes: int) -> dict[str, Any]:
    """A source's facts with their origins, and the disk it takes."""
    images = round(source.rows * source.expected_yield)
    in_flight = min(source.rows, (2 * processes + 2) * SHARD_ROWS)  # the shards that `fetch.supervisor` lets wait
    facts = {name: value for name, value in vars(source).items() if name not in ("read", "options", "files")}
    return {
        **facts,
        "files": [{"name": name, "format": how} for name, how in source.files],
        "images": images,
        "shards_gib": round(images * KIB_STORED / 2**20, 1),
        "shards_from": f"{KIB_STORED:g} KiB an image, measured (docs/sources.md)",
        "in_flight_gib": round(in_flight * KIB_ORIGINAL / 2**20, 1),
        "in_flight_from": f"{KIB_ORIGINAL:g} KiB an original: COCO 2014, 19 GB for 123,287 images",
    }
