"""The shard contract: data_prep writes, pipeline reads, and neither imports the other."""

from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image

from data_prep.cli import main
from data_prep.filters.settings import FilterSettings
from pipeline.data.corpus.manifest import read_manifest
from pipeline.data.corpus.reader import ShardReader
from pipeline.data.sampling.epoch_order import EpochOrder
from tests.support.filtering import Entry, detailed, filter_here, kept, pack, removed
from tests.support.hostile_images import halves, jpeg


def test_pipeline_reads_every_sample_that_data_prep_packed(tmp_path: Path) -> None:
    """Nine entries in shards of three, one entry broken, one whole shard of missing files: five samples, in order."""
    entries = []
    for number in range(9):
        if not 3 <= number < 6:
            (tmp_path / f"{number}.jpg").write_bytes(jpeg(halves(90 + number, 70))[: 500 if number == 7 else None])
        entries.append({"image": f"{number}.jpg", "caption": [f"picture {number}", "é"]})
    (tmp_path / "list.json").write_text(json.dumps(entries))
    lists = ("--annotations", tmp_path / "list.json", "--images", tmp_path, "--out", tmp_path / "out")
    sizes = ("--image-size", "64", "--shard-size", "3", "--processes", "1", "--source", "made")
    assert main(["pack", *map(str, lists), *sizes]) == 0

    manifest = read_manifest(tmp_path / "out")
    assert manifest.num_samples == 5 and [shard.num_samples for shard in manifest.shards] == [3, 0, 2]
    reader = ShardReader()
    samples = [reader.read(manifest.sample(index)) for index in range(manifest.num_samples)]
    reader.close()
    kept = [0, 1, 2, 6, 8]
    assert [sample.captions for sample in samples] == [[f"picture {number}", "é"] for number in kept]
    assert [int(sample.name.rpartition("-")[2]) for sample in samples] == kept
    sizes_read = [Image.open(io.BytesIO(sample.jpg)).size for sample in samples]
    assert sizes_read == [(round((90 + number) * 64 / 70), 64) for number in kept]


def test_an_epoch_over_a_filtered_corpus_reads_what_stays_once_each(tmp_path: Path) -> None:
    """Two folders, one shard of which is dropped whole: the pixels and captions of the kept samples, and no others."""
    web: list[Entry] = [(detailed(number % 7, 90, 80), f"thing number {number}") for number in range(10)]
    coco: list[Entry] = [(detailed(number, 90, 80), f"seen again {number}") for number in range(5, 14)]
    folders = [pack(tmp_path, "web", web), pack(tmp_path, "coco", coco, shard_size=2)]
    filter_here(tmp_path / "corpus", folders)
    stays = [f"web-{number:09d}" for number in range(7)] + [f"coco-{number:09d}" for number in range(2, 9)]
    assert kept(tmp_path / "corpus") == stays and len(removed(tmp_path / "corpus")) == 5

    manifest = read_manifest(tmp_path / "corpus")
    manifest.check()
    assert manifest.num_samples == 14 and 0 in manifest.shard_sizes
    order = EpochOrder(manifest.shard_sizes, seed=1, epoch=0, window_shards=3).indices(0, 14)
    reader = ShardReader()
    samples = [reader.read(manifest.sample(index)) for index in order]
    reader.close()
    assert sorted(sample.name for sample in samples) == sorted(stays)
    captions = {f"web-{n:09d}": text for n, (_, text) in enumerate(web)} | {
        f"coco-{n:09d}": text for n, (_, text) in enumerate(coco)
    }
    assert all(sample.captions == [captions[sample.name]] for sample in samples)
    assert len({sample.jpg for sample in samples}) == 14, "no picture twice"


def test_another_selection_of_the_same_tars_is_other_data(tmp_path: Path) -> None:
    """The fingerprint of a run's data: it is the folder's if no sample is dropped, and another if one is."""
    entries: list[Entry] = [
        (detailed(number, 90, 80), text) for number, text in enumerate(("a b c", "one two", "x y z"))
    ]
    folder = pack(tmp_path, "web", entries)
    loose = FilterSettings(off=("caption_length",))
    filter_here(tmp_path / "all", [folder], loose)
    filter_here(tmp_path / "first", [folder], FilterSettings(max_characters=5))
    prints = [read_manifest(path).fingerprint() for path in (folder, tmp_path / "all", tmp_path / "first")]
    assert prints[0] == prints[1] != prints[2]
    assert kept(tmp_path / "first") == ["web-000000000", "web-000000002"]
