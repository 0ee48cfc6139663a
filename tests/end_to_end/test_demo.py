"""`python -m demo`, whole and small: killed in its download and in its training, started again, and what it leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from albef.pretrained import Albef
from demo.pictures import ASSETS
from demo.processes import leftovers
from demo.results import read_ingestion, read_json, read_scalars
from demo.settings import Layout
from demo.url_lists import BROKEN

ROOT = Path(__file__).resolve().parents[2]
STEPS, PICTURES = 9, 192


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_twice_the_same_command_finishes_the_demo(tmp_path: Path) -> None:
    """kill -9 while downloading and while training, then the same command: everything the demo promises is there."""
    layout = Layout(tmp_path / "demo")
    try:
        kill_once(layout, lambda: (layout.shards("train") / ".work").exists(), "the download begins")
        kill_once(layout, lambda: (layout.root / "checkpoints" / "latest").exists(), "a checkpoint is published")
        saved_step = int((layout.root / "checkpoints" / "latest").read_text().rpartition("_")[2])
        third = subprocess.run(command(layout), cwd=ROOT, capture_output=True, text=True, timeout=400)
    finally:
        for pid in leftovers(layout.root):
            os.kill(pid, signal.SIGKILL)
    assert third.returncode == 0, third.stderr[-3000:]
    assert "download train: done before" in third.stdout
    resumed = re.search(rf"resuming from .*: step (\d+) of {STEPS}$", third.stderr, re.MULTILINE)
    assert resumed, third.stderr
    # the kernel sends the trainer SIGTERM when the demo dies, so it may have saved one step more
    assert int(resumed[1]) >= saved_step > 0
    check_numbers(layout)
    check_table(third.stdout)
    check_report(layout.report.read_text(encoding="utf-8"))
    check_export(layout)

    fourth = subprocess.run(command(layout), cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert fourth.returncode == 0 and fourth.stdout.count("done before") >= 6
    other = subprocess.run([*command(layout), "--seed", "5"], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert other.returncode == 2 and "--seed was 0, is now 5" in other.stderr


def command(layout: Layout) -> list[str]:
    """The small demo."""
    small = ["--steps", str(STEPS), "--pictures", str(PICTURES)]
    return [sys.executable, "-m", "demo", "--run-dir", str(layout.root), *small]


def kill_once(layout: Layout, when: Callable[[], bool], what: str) -> None:
    """Start the demo and kill -9 it when something has happened; the log is shown if it does not."""
    log = layout.root.with_suffix(".log")
    with log.open("a") as output:
        process = subprocess.Popen(command(layout), cwd=ROOT, stdout=output, stderr=output)
        deadline = time.monotonic() + 240
        while not when():
            ended = process.poll()
            assert ended is None and time.monotonic() < deadline, f"before {what}: {ended}\n{log.read_text()[-3000:]}"
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def check_numbers(layout: Layout) -> None:
    """Every listed URL is accounted for; recalls before and after; each step once."""
    train = read_ingestion("train", layout.manifest("train"))
    assert train.listed == PICTURES + len(BROKEN)
    assert train.kept + sum(train.failures.values()) == train.listed
    assert train.kept == PICTURES + BROKEN.count("flaky")  # and each other broken row is a failure
    curves = read_scalars(layout.metrics)
    assert curves["val/t2i_recall_at_1"][0][0] == 0
    assert curves["val/t2i_recall_at_1"][-1][0] == STEPS
    assert curves["train/loss"][-1][0] == STEPS
    steps = [json.loads(line)["step"] for line in layout.metrics.read_text().splitlines() if "train/loss" in line]
    assert steps == sorted(set(steps))
    for model in ("untrained", "trained"):
        metrics = read_json(layout.retrieval(model))
        assert metrics["num_images"] == PICTURES and 0 <= metrics["t2i_recall_at_10"] <= 100


def check_table(printed: str) -> None:
    """Chance, before and after, with six recalls each; what trained it."""
    for row in ("chance", "before training", "after training"):
        assert re.search(rf"^{row} +(\d+\.\d +){{5}}\d+\.\d$", printed, re.MULTILINE), printed
    assert "DeepSpeed" in printed and "report.html" in printed


def check_report(page: str) -> None:
    """One file: nothing is loaded from outside, every section is there, pictures and curves too."""
    assert "http://" not in page and "https://" not in page
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page and "@import" not in page
    for section in ("Zero-shot retrieval", "Curves", "What it finds", "each word", "Ingestion", "What trained it"):
        assert section in page
    assert page.count("<svg") >= 5 and page.count("data:image/jpeg;base64,") > 60


def check_export(layout: Layout) -> None:
    """The exported model loads and tells pictures apart by number."""
    albef = Albef.from_pretrained(layout.export, device="cpu")
    photos = [Image.open(path) for path in sorted((ASSETS / "photos").glob("*.jpg"))]
    match = albef.match(photos, ["a cat", "a cup of coffee", "a rocket"])
    assert match.shape == (3,) and bool(((match > 0) & (match < 1)).all())
