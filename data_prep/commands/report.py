"""`data_prep report`: one HTML page about a corpus, which opens offline."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from base import flag_types
from data_prep.accounts.datasheet import DATASHEET_NAME, shard_rows
from data_prep.errors import InputError
from data_prep.output.ownership import check_replaceable
from data_prep.output.storage import file_sha256, is_remote, publish, storage_location, unpublished
from data_prep.report.hosts import FailedHosts
from data_prep.report.page import Page, is_page, render
from data_prep.report.sample_stats import contact_sheet, sample_stats
from data_prep.report.suspicious import suspicious
from data_prep.shards.manifest import MANIFEST_NAME

NUM_HOSTS = 40


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("folder", metavar="DIR", help="a folder with a manifest: of a download, pack or filter")
    parser.add_argument("--out", metavar="FILE", help="the page (default: DIR/report.html)")
    parser.add_argument(
        "--samples", type=flag_types.count, default=60, metavar="N", help="pictures on the contact sheet (60)"
    )
    parser.add_argument(
        "--shards",
        type=flag_types.positive,
        default=40,
        metavar="N",
        help="shards of each source to read for statistics (40)",
    )
    parser.add_argument("--seed", type=int, default=0, help="which shards and pictures are drawn (0)")


def run(flags: argparse.Namespace) -> int:
    """Exit code: 0."""
    folder = storage_location(flags.folder)
    out = Path(flags.out) if flags.out else folder / "report.html"
    if not is_remote(out):
        check_replaceable(out, is_page, "--out")
    page = collect(folder, samples=flags.samples, shards=flags.shards, seed=flags.seed)
    _publish(out, render(page))
    stats = page.stats
    print(f"read {stats.samples} samples of {stats.shards} shards, {len(page.suspicions)} shards are suspicious")
    print(f"wrote {out}, {out.stat().st_size / 2**20:.1f} MiB")
    return 0


def collect(folder: Path, *, samples: int, shards: int, seed: int) -> Page:
    """What the page shows. Memory: a shard's row of the manifest, some hundred bytes for each of the others.

    Raises: InputError when there is no manifest, or no datasheet that belongs to it.
    """
    manifest = folder / MANIFEST_NAME
    rows = list(shard_rows(manifest))
    if not any(row["num_samples"] for row in rows):
        raise InputError(f"{manifest} names no sample", "`data_prep status DIR` counts why rows became none")
    sheet = _datasheet(folder)
    stats = sample_stats(manifest, [row["source"] for row in rows], shards, seed)
    hosts = FailedHosts()
    hosts.read(manifest, (row["path"] for row in rows), stats)
    return Page(
        title=f"What {(folder if is_remote(folder) else folder.resolve()).name} holds",
        datasheet=sheet,
        reasons={name: source["failed"] for name, source in sheet["sources"].items()},
        hosts=hosts.most(NUM_HOSTS, stats),
        hosts_missed=hosts.missed,
        failures_missing=hosts.missing,
        stats=stats,
        pictures=contact_sheet(manifest, [row["num_samples"] for row in rows], samples, seed),
        seed=seed,
        suspicions=suspicious(rows),
    )


def _datasheet(folder: Path) -> dict[str, Any]:
    path = folder / DATASHEET_NAME
    if not path.exists():
        raise InputError(f"no {DATASHEET_NAME} beside {folder / MANIFEST_NAME}", "`data_prep verify DIR` writes it")
    sheet: dict[str, Any] = json.loads(path.read_bytes())
    sha256 = file_sha256(folder / MANIFEST_NAME)
    if sheet["manifest_sha256"] != sha256:
        raise InputError(
            f"{path} is of another manifest: sha256 {sheet['manifest_sha256'][:12]}, now {sha256[:12]}",
            "run `data_prep verify DIR`, or `filter` for a filtered corpus, to write it again",
        )
    return sheet


def _publish(out: Path, document: str) -> None:
    if not is_remote(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    written = unpublished(out)
    written.write_text(document, encoding="utf-8")
    publish(written, out)
