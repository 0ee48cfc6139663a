"""Ingestion as it happens: 2,000 URLs of a hostile web, two machines, both killed, every row accounted for."""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from albef.config import AlbefConfig, ObjectiveConfig
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.sections import AugmentConfig, DataConfig
from pipeline.data.corpus.manifest import read_manifest
from pipeline.data.loader import TrainingLoader
from pipeline.tasks.pretraining.collate import PretrainBatcher
from tests.support.data_prep_runs import kill_all, run, start, wait_for
from tests.support.hostile_images import enormous_png, jpeg
from tests.support.image_server import ImageServer, Reply
from tests.support.job_processes import family

NUM_ROWS, SHARD_SIZE, CYCLE = 2_000, 100, 50
PER_KIND = NUM_ROWS // CYCLE
WIDTH, HEIGHT = 96, 72


@functools.cache
def picture(number: int) -> Image.Image:
    """A soft random pattern, unlike that of any other number."""
    values = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def evaluation_picture(number: int) -> Image.Image:
    return picture(1_000_000 + number)


GONE, LATER, CUT, PAGE, EMPTY, OPTED_OUT, TO_FILE, SAME, SQUEEZED, TEST_SET, TERSE, SMALL, FTP, SILENT, BOMB = range(15)
"""What is wrong with row r, by r modulo 50; with the other 35 nothing is."""
FAILED = {
    GONE: "http_404",
    CUT: "truncated_image",
    PAGE: "html_instead_of_image",
    EMPTY: "empty_body",
    OPTED_OUT: "opted_out",
    TO_FILE: "bad_redirect",
    FTP: "unsupported_scheme",
    SILENT: "empty_caption",
    BOMB: "too_many_pixels",
}
FILTERED = {
    SAME: "exact_duplicate",
    SQUEEZED: "near_duplicate",
    TEST_SET: "decontamination",
    TERSE: "caption_length",
    SMALL: "image_size",
}


class Web:
    """The server's answers; `recovered` ends the time in which some rows are answered by 503."""

    def __init__(self) -> None:
        self.recovered = False
        self._bomb = enormous_png()

    def answer(self, path: str) -> Reply:
        row = int(path.removeprefix("/").removesuffix(".jpg"))
        kind = row % CYCLE
        if kind == GONE:
            return Reply(b"gone", "text/plain", 404)
        if kind == LATER and not self.recovered:
            return Reply(b"later", "text/plain", 503)
        if kind == TO_FILE:
            return Reply(status=302, headers={"Location": "file:///etc/passwd"})
        headers = {"X-Robots-Tag": "noai"} if kind == OPTED_OUT else {}
        return Reply(self._body(row, kind), headers=headers, delay_s=0.01)

    def _body(self, row: int, kind: int) -> bytes:
        if kind == CUT:
            return jpeg(picture(row))[:900]
        if kind == PAGE:
            return b"<!doctype html><title>sold</title>"
        if kind == EMPTY:
            return b""
        if kind == BOMB:
            return self._bomb
        if kind == SAME:
            return jpeg(picture(row + 20))
        if kind == SQUEEZED:
            return jpeg(picture(row + 20), quality=55)
        if kind == TEST_SET:
            return jpeg(ImageOps.mirror(evaluation_picture(row // CYCLE)), quality=70)
        if kind == SMALL:
            return jpeg(picture(row).resize((24, 18)))
        return jpeg(picture(row))


def caption(row: int) -> str:
    kind = row % CYCLE
    if kind == SILENT:
        return "   "
    return "x" if kind == TERSE else f"a soft pattern of colours, the {row} of its kind"


@pytest.fixture
def web() -> Iterator[tuple[Web, ImageServer]]:
    with ImageServer() as server:
        web = Web()
        server.serve_anything(web.answer)
        yield web, server


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_row_of_a_hostile_list_is_accounted_for_and_every_kept_one_is_read_once(
    web: tuple[Web, ImageServer], tmp_path: Path
) -> None:
    """Two parts killed with -9 and started again, verify, retry, filter, report, and an epoch of what stayed."""
    answers, server = web
    data, corpus, exam = tmp_path / "web", tmp_path / "corpus", tmp_path / "exam"
    download(server, data, tmp_path)
    assert command("verify", data, "--processes", 2) == 0
    assert datasheet(data) == {
        "listed": NUM_ROWS,
        "kept": NUM_ROWS - (len(FAILED) + 1) * PER_KIND,
        "failed": dict.fromkeys([*FAILED.values(), "http_503"], PER_KIND),
        "filtered": {},
        "left": 0,
    }

    answers.recovered = True
    assert command("retry", data, "--allow-private-addresses", "--retries", 0, "--processes", 1) == 0
    failed = dict.fromkeys(FAILED.values(), PER_KIND)
    kept = NUM_ROWS - len(FAILED) * PER_KIND
    assert datasheet(data) == {"listed": NUM_ROWS, "kept": kept, "failed": failed, "filtered": {}, "left": 0}

    exam.mkdir()
    for number in range(PER_KIND):
        evaluation_picture(number).save(exam / f"{number}.png")
    assert command("filter", data, "--out", corpus, "--decontaminate", f"exam={exam}", "--processes", 2) == 0
    assert datasheet(corpus) == {
        "listed": NUM_ROWS,
        "kept": kept - len(FILTERED) * PER_KIND,
        "failed": failed,
        "filtered": dict.fromkeys(FILTERED.values(), PER_KIND),
        "left": 0,
    }
    assert command("verify", corpus, "--processes", 2) == 0
    assert command("report", corpus, "--samples", 12) == 0
    page = (corpus / "report.html").read_text(encoding="utf-8")
    assert "near_duplicate" in page and "http_404" in page and 'src="http' not in page

    assert rows_of_an_epoch(corpus) == Counter(rows_that_stay())


def download(server: ImageServer, data: Path, tmp_path: Path) -> None:
    """Both parts of two, each killed when it has finished a shard and has more to do, then run to their ends."""
    urls = tmp_path / "web.tsv"
    lines = ["url\tcaption"]
    for row in range(NUM_ROWS):
        address = server.url(f"/{row}.jpg")
        address = address.replace("http:", "ftp:") if row % CYCLE == FTP else address
        lines.append(f"{address}\t{caption(row)}")
    urls.write_text("\n".join(lines) + "\n")
    words = ["download", "--urls", urls, "--out", data, "--shard-size", SHARD_SIZE, "--image-size", 64]
    words += ["--allow-private-addresses", "--retries", 0, "--threads", 16, "--processes", 1]
    records = data / "shards"

    def finished(part: int) -> int:
        return sum(int(path.stem.rpartition("-")[2]) % 2 == part for path in records.glob("web-*.json"))

    started = [start(*words, "--part", f"{part + 1}/2") for part in range(2)]
    try:
        for part, process in enumerate(started):
            wait_for(functools.partial(finished, part), f"a shard of part {part + 1}")
            kill_all(family(process.pid))
            process.communicate()
            assert finished(part) < NUM_ROWS // SHARD_SIZE // 2, "killed too late to prove anything"
        started = [start(*words, "--part", f"{part + 1}/2") for part in range(2)]
        for process in started:
            _, err = process.communicate(timeout=200)
            assert process.returncode == 0, err
    finally:
        for process in started:
            kill_all(family(process.pid))


def command(*words: object) -> int:
    """Runs to its end; shows what it printed unless it exits with 0."""
    done = run(*words)
    if done.returncode:
        print(done.stdout, done.stderr)
    return done.returncode


def datasheet(folder: Path) -> dict[str, object]:
    """What became of the rows."""
    sheet = json.loads((folder / "datasheet.json").read_text())
    return {name: sheet[name] for name in ("listed", "kept", "failed", "filtered", "left")}


def rows_that_stay() -> set[int]:
    """By the plan of this test: nothing wrong with it, the first of two equals, or answered the second time."""
    copied = {SAME + 20, SQUEEZED + 20}
    wrong = {*FAILED, TEST_SET, TERSE, SMALL} | copied
    return {row for row in range(NUM_ROWS) if row % CYCLE not in wrong}


def rows_of_an_epoch(corpus: Path) -> Counter[int]:
    """Rows of the list, by how often the training loader hands them out in an epoch; two workers decode them."""
    loader = TrainingLoader(
        read_manifest(corpus),
        data=DataConfig(num_workers=2),
        batcher=PretrainBatcher(
            model=AlbefConfig.tiny(image_size=32),
            objective=ObjectiveConfig(),
            augment=AugmentConfig(),
            max_caption_words=30,
            tokenizer=AlbefTokenizer(),
        ),
        seed=0,
        micro_batch_size=1,  # an epoch leaves out what does not fill a batch
        num_lanes=1,
        lanes=range(1),
    )
    seen: Counter[int] = Counter()
    for step in itertools.islice(loader.steps(), loader.steps_per_epoch):
        assert not step.skipped
        (batch,) = step.lanes
        (key,), (text,) = batch.keys, batch.captions
        row = int(key.rpartition("-")[2])
        assert f"the {row} of its kind" in text, (key, text)
        seen[row] += 1
    loader.close()
    return seen
