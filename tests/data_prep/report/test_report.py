"""`data_prep report`: the page shows what the files hold, and nothing that came from the web acts on it."""

from __future__ import annotations

import base64
import io
import os
import random
import re
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep.accounts.datasheet import write_datasheet
from data_prep.cli import main
from data_prep.lists.row_list import ListedImage
from data_prep.output.job import Folder, ImageSettings, Job, write_job
from data_prep.report.counters import CommonCounter, Histogram
from data_prep.report.page import _text
from data_prep.report.sample_stats import sample_stats
from data_prep.report.suspicious import suspicious
from data_prep.shards.manifest import read_manifest, write_manifest
from data_prep.shards.writer import FetchResult, write_shard
from data_prep.stages.verify import verify_folder
from tests.support.data_prep_runs import samples
from tests.support.hostile_images import jpeg

SHARDS, ROWS = 6, 10
NASTY = [
    "<script>alert(1)</script>",
    "\"><img src='http://evil.example/x.png' onerror=alert(1)>",
    "</style></figcaption><iframe src=javascript:alert(1)>",
    "left \u202eright &amp; \x07 bell",
    "two\nlines",
]
HOSTS = ["good.example", "bad.example"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards of ten rows; bad.example (rows 0, 4, 8 of each) fails but in shard 3, where good.example fails."""
    root = tmp_path_factory.mktemp("web")
    images = ImageSettings(image_size=64)
    job = Job(kind="download", source="web", inputs_sha256="0", shard_size=ROWS, images=images, num_rows=SHARDS * ROWS)
    place = Folder(root)
    for path in (place.shards, place.failures, place.work):
        path.mkdir()
    write_job(place, job)
    for shard in range(SHARDS):
        rows, results = {}, []
        for row in range(shard * ROWS, (shard + 1) * ROWS):
            bad = row % ROWS % 4 == 0
            rows[row] = ListedImage(
                f"http://{HOSTS[bad]}/{row}.jpg", [f"picture number {row}", NASTY[row % len(NASTY)]]
            )
            failed = bad != (shard == 3)
            # grain, so that a tar is as large as its pictures: it ends at a multiple of 10 KiB
            picture = Image.effect_noise((80 + row, 70), 40).convert("RGB")
            data = None if failed else jpeg(picture)
            results.append(FetchResult(row, data, "http_404: Not Found" if failed else None))
        write_shard(place, job, shard, rows, results, {"command": "download", "list": "<i>list</i>.tsv"})
    with ThreadPoolExecutor(1) as pool:
        assert verify_folder(root, pool, 1).problems == []
    return root


class Seen(HTMLParser):
    """The page as a browser reads it: elements, attributes, and the text of each section."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.cells: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.cells.append(data)

    def after(self, text: str, number: int) -> list[str]:
        """The pieces of text that follow a piece."""
        place = self.cells.index(text)
        return self.cells[place + 1 : place + 1 + number]


@pytest.fixture(scope="module")
def page(folder: Path) -> Seen:
    assert main(["report", str(folder), "--samples", "25", "--seed", "3"]) == 0
    return Seen((folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_loads_and_runs_nothing(page: Seen) -> None:
    """It opens offline, and captions that are HTML are text on it."""
    assert not {"script", "iframe", "link", "object", "a", "form"} & set(page.tags)
    assert not [attribute for attribute in page.attributes if attribute[1].startswith("on")]
    assert all(value.startswith("data:image/jpeg;base64,") for _, name, value in page.attributes if name == "src")
    style = next(cell for cell in page.cells if ":root" in cell)
    assert "url(" not in style and "@import" not in style
    for caption in NASTY[:3]:
        assert caption in page.cells
    text = "".join(page.cells)
    assert "left \N{REPLACEMENT CHARACTER}right &amp; \N{REPLACEMENT CHARACTER} bell" in text and "two lines" in text
    assert "\u202e" not in text and "\x07" not in text


def test_the_numbers_are_those_of_the_files(folder: Path, page: Seen) -> None:
    """60 listed; shard 3 lost the seven of good.example, the others the three of bad.example."""
    failed = 5 * 3 + 7
    assert len(samples(folder)) == 60 - failed
    share = f"{(60 - failed) / 60:.1%}"
    assert page.after("web", 7) == ["60", str(60 - failed), share, str(failed), "0", "0", "6"]
    assert page.after("http_404", 2) == [str(failed), f"{failed / 60:.1%}"]
    assert page.after("bad.example", 4) == ["15", "http_404", f"{15 / 18:.1%}", "18"]
    assert page.after("good.example", 4) == ["7", "http_404", f"{7 / 42:.1%}", "42"]


def test_the_contact_sheet_shows_samples_of_the_corpus(folder: Path, page: Seen) -> None:
    """25 different ones, each with its own picture; its width, 80 + row, identifies the row."""
    pictures = [value for tag, _, value in page.attributes if tag == "img" and value.startswith("data:")]
    captions = [text for text in page.cells if text.startswith("picture number ")]
    assert len(pictures) == len(captions) == len(set(captions)) == 25
    stored = samples(folder)
    for data_url, caption in zip(pictures, captions, strict=True):
        thumbnail = Image.open(io.BytesIO(base64.b64decode(data_url.partition(",")[2])))
        meta = stored[int(caption.split()[-1])][1]
        assert thumbnail.size == (meta["width"], meta["height"])


def test_the_same_seed_makes_the_same_page(folder: Path, tmp_path: Path) -> None:
    def make(seed: int) -> bytes:
        assert main(["report", str(folder), "--samples", "5", "--seed", str(seed), "--out", str(tmp_path / "p")]) == 0
        return (tmp_path / "p").read_bytes()

    assert make(1) == make(1) != make(2)


def test_looking_at_some_shards_says_at_how_many(folder: Path) -> None:
    """Two of six: sizes, captions and words as the JSON of those samples has them."""
    manifest = folder / "manifest.parquet"
    rows = read_manifest(manifest)
    stats = sample_stats(manifest, ["web"] * SHARDS, 2, seed=5)
    chosen = [row for row in rows if row["path"] in stats.names]
    assert stats.shards == len(chosen) == 2 and stats.samples == sum(row["num_samples"] for row in chosen)
    stored = samples(folder)
    metas = [stored[int(key.rpartition("-")[2])][1] for row in chosen for key in row["keys"]]
    shortest = [min(meta["original_width"], meta["original_height"]) for meta in metas]
    assert stats.shortest.counts == np.histogram(shortest, stats.shortest.edges)[0].tolist()
    assert stats.words["picture"] == len(metas) and stats.captions.mean == 2


def test_a_filtered_corpus_finds_the_failures_of_its_sources(folder: Path, tmp_path: Path) -> None:
    """Its manifest names tars of another folder; one rule took a sample of each shard."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    rows = []
    for row in read_manifest(folder / "manifest.parquet"):
        shorter = {name: row[name][1:] for name in ("keys", "offsets", "lengths")}
        taken = {"num_samples": row["num_samples"] - 1, "filtered": [{"rule": "caption_words", "count": 1}]}
        rows.append(row | shorter | taken | {"path": os.path.relpath(folder / row["path"], corpus)})
    write_manifest(corpus, rows)
    write_datasheet(corpus)
    assert main(["report", str(corpus), "--samples", "3"]) == 0
    seen = Seen((corpus / "report.html").read_text(encoding="utf-8"))
    assert seen.after("caption_words", 2) == [str(SHARDS), "10.0%"]
    assert seen.after("bad.example", 2) == ["15", "http_404"]


def test_a_datasheet_of_another_manifest_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = shutil.copytree(folder, tmp_path / "copy")
    write_manifest(copied, read_manifest(copied / "manifest.parquet")[:-1])
    assert main(["report", str(copied)]) == 2
    assert "is of another manifest" in capsys.readouterr().err
    (copied / "datasheet.json").unlink()
    assert main(["report", str(copied)]) == 2
    assert "no datasheet.json beside" in capsys.readouterr().err


def test_the_unlike_shard_is_suspicious_and_the_others_are_not(page: Seen) -> None:
    why = page.after("shards/web-00003.tar", 1)[0]
    assert why.startswith("yield 30.0%, median 70.0%;") and "outcomes 40.0% from the median: http_404 70.0%" in why
    assert not [text for text in page.cells if text.startswith("shards/web-") and "00003" not in text]


def test_suspicion_by_yield_size_and_mix() -> None:
    """Twenty shards of 1,000 rows with ordinary spread, and one wrong in each way."""
    draw = random.Random(0)

    def shard(number: int, kept: int = 700, kib: float = 40.0, gone: float = 0.9) -> dict[str, Any]:
        kept += draw.randint(-10, 10)
        missing = round((1000 - kept) * gone)
        failures = [{"reason": "http_404", "count": missing}, {"reason": "timed_out", "count": 1000 - kept - missing}]
        size = int(kept * (kib + draw.uniform(-1, 1)) * 1024)
        return {
            "path": str(number),
            "source": "s",
            "listed": 1000,
            "num_samples": kept,
            "bytes": size,
            "failures": failures,
        }

    rows = [shard(number) for number in range(20)]
    assert suspicious(rows) == []
    wrong = [shard(20, kept=500), shard(21, kib=20.0), shard(22, gone=0.2)]
    found = {suspicion.path: suspicion.why for suspicion in suspicious([*rows, *wrong])}
    assert set(found) == {"20", "21", "22"}
    assert found["20"].startswith("yield ") and "KiB a sample" in found["21"] and "timed_out 2" in found["22"]
    assert suspicious([*rows[:2], wrong[0]]) == [], "three shards have no ordinary"
    assert suspicious([row | {"supersedes": [{"reason": "timed_out", "count": 1000}]} for row in wrong] + rows) == []


def test_the_commonest_are_counted_within_the_stated_error() -> None:
    """30,000 draws of 5,000 names into room for 100: against the exact counts."""
    draw = random.Random(1)
    drawn = [f"name{int(draw.paretovariate(0.8))}" for _ in range(30_000)]
    exact, counter = Counter(drawn), CommonCounter(100)
    for start in range(0, len(drawn), 500):
        counter.add(drawn[start : start + 500])
    assert 0 < counter.missed <= len(drawn) / 100
    for name, count in counter.most_common(20):
        assert exact[name] - counter.missed <= count <= exact[name]
    assert [name for name, _ in counter.most_common(5)] == [name for name, _ in exact.most_common(5)]


def test_a_histogram_counts_what_lies_beyond_its_edges_too() -> None:
    histogram = Histogram([0, 1, 10])
    for value in (-5, 0, 0.5, 1, 9.9, 10, 1000):
        histogram.add(value)
    assert (histogram.counts, histogram.num) == ([3, 4], 7)


def test_long_words_stay_inside_the_page(page: Seen) -> None:
    """Every text breaks inside a word that has no room, by the body's rule; in tables and lists the column shrinks too.

    A word, a cell or a caption of a megabyte is cut, so that the page can still be opened.
    """
    style = re.sub(r"/\*.*?\*/", "", next(cell for cell in page.cells if ":root" in cell), flags=re.DOTALL)
    rules = {
        selector.strip(): body
        for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", style.partition("@media (max-width")[0])
    }
    assert "overflow-wrap: break-word" in rules["body"]
    for selector in ("ol.words", "td:first-child, .words td:last-child"):
        assert "overflow-wrap: anywhere" in rules[selector]
    assert "nowrap" not in style
    assert len(_text("wide " * 1_000_000)) == 1000 and _text("x" * 200, 80) == "x" * 79 + "…"
