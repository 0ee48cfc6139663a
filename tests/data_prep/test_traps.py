"""Traps of ingestion that only a whole run meets; docs/ingestion.md lists all of them, and the tests of each."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.cli import main
from tests.support.data_prep_runs import ROOT, run, samples
from tests.support.hostile_images import jpeg
from tests.support.image_server import ImageServer, Reply

NUM_ROWS = 30
SMALL_BLOCKS = 200
"""Of 512 bytes: files end at 100 KiB, as they do on a full disk, in the middle of a write."""


def without_room(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command, no file of which can become larger than 100 KiB."""
    script = f'ulimit -f {SMALL_BLOCKS}; exec "$@"'
    words = ["sh", "-c", script, "sh", sys.executable, "-m", "data_prep", *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=240)


def grainy(number: int) -> bytes:
    """10 KiB that no compression makes smaller."""
    pixels = np.random.default_rng(number).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    return jpeg(Image.fromarray(pixels), quality=80)


def test_a_full_disk_is_reported_and_leaves_no_half_shard(tmp_path: Path) -> None:
    """img2dataset exits with 0 there. 30 originals of 10 KiB do not fit, so no shard counts; with room it resumes."""
    bodies = [grainy(row) for row in range(NUM_ROWS)]
    assert sum(map(len, bodies)) > 2 * 512 * SMALL_BLOCKS
    out, urls = tmp_path / "out", tmp_path / "list.tsv"
    with ImageServer() as server:
        server.serve_anything(lambda path: Reply(bodies[int(path[1:-4])]))
        lines = [f"{server.url(f'/{row}.jpg')}\tpicture {row}\n" for row in range(NUM_ROWS)]
        urls.write_text("url\tcaption\n" + "".join(lines))
        command = ("download", "--allow-private-addresses", "--urls", urls, "--out", out, "--image-size", 16)
        once = ("--processes", 1, "--threads", 4, "--attempts", 1)
        full = without_room(*command, *once)
        assert full.returncode == 1, full.stderr
        assert "times and finished no shard" in full.stderr and "File too large" in full.stderr
        assert "Traceback" not in full.stderr
        assert list((out / "shards").iterdir()) == [] and not (out / "manifest.parquet").exists()
        again = run(*command, *once)
    assert again.returncode == 0, again.stderr
    assert list(samples(out)) == list(range(NUM_ROWS))


def test_a_disk_that_fills_while_a_shard_is_written_leaves_none(tmp_path: Path) -> None:
    """The originals are there, the shard does not fit: one error with its hint, and nothing that looks finished."""
    for row in range(NUM_ROWS):
        (tmp_path / f"{row}.jpg").write_bytes(grainy(row))
    entries = [{"image": f"{row}.jpg", "caption": f"picture {row}"} for row in range(NUM_ROWS)]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    command = ("pack", "--annotations", tmp_path / "list.json", "--images", tmp_path, "--out", tmp_path / "out")
    full = without_room(*command, "--processes", 1)
    assert full.returncode == 2, full.stderr
    assert "error: " in full.stderr and "File too large" in full.stderr and "run the same command again" in full.stderr
    assert not [path for path in (tmp_path / "out" / "shards").iterdir() if not path.name.startswith(".")]
    assert main([*map(str, command), "--processes", "1"]) == 0
    assert list(samples(tmp_path / "out")) == list(range(NUM_ROWS))
    assert not list((tmp_path / "out").rglob(".*.tmp"))


def test_the_table_of_traps_names_tests_that_are_there() -> None:
    """docs/ingestion.md, each `test_file.py::test_name`."""
    page = (ROOT / "docs" / "ingestion.md").read_text()
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", page)
    assert len(named) > 20
    files = {path.name: path.read_text() for path in Path(__file__).parent.rglob("test_*.py")}
    assert [f"{file}::{name}" for file, name in named if f"def {name}(" not in files[file]] == []
