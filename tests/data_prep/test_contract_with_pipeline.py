"""The shard contract, held together: written by data_prep, read by pipeline, which know nothing of each other."""

from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image

from data_prep.cli import main
from pipeline.data.manifest import read_manifest
from pipeline.data.reader import ShardReader
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
