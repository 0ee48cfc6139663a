"""A run resumes on the data it started with, wherever that lies now."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from albef.errors import ConfigError
from pipeline.data.corpus.manifest import read_manifest
from pipeline.engine.distributed import World
from pipeline.run.data_fingerprint import check_same_data
from pipeline.run.folder import RunFolder
from tests.support.shards import write_corpus

ALONE = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))


def started(tmp_path: Path, *, checkpoint: bool = True) -> tuple[RunFolder, Path]:
    """A run folder on shards of 4 and 3, with a checkpoint or none."""
    corpus = write_corpus(tmp_path / "data", [4, 3])
    folder = RunFolder(path=tmp_path / "run")
    folder.checkpoints.mkdir(parents=True)
    check_same_data(folder, read_manifest(corpus), ALONE)
    if checkpoint:
        (folder.checkpoints / "step_00000001").mkdir()
        (folder.checkpoints / "step_00000001" / "meta.json").write_text("{}")
    return folder, corpus


def test_moved_data_is_the_same_data(tmp_path):
    """With the data copied elsewhere, the run resumes."""
    folder, corpus = started(tmp_path)
    shutil.copytree(corpus.parent, tmp_path / "moved")
    check_same_data(folder, read_manifest(tmp_path / "moved"), ALONE)
    assert str(tmp_path / "moved") in (folder.path / "data.json").read_text()


@pytest.mark.parametrize("sizes", [[4, 3, 1], [3, 4], [4]])
def test_other_data_is_refused_once_there_is_a_checkpoint(tmp_path, sizes):
    """A shard more, the same samples cut otherwise, a shard less: the error names both with their numbers."""
    folder, _ = started(tmp_path)
    other = read_manifest(write_corpus(tmp_path / "other", sizes))
    with pytest.raises(ConfigError, match=f"7 samples in 2 shards .* then, {sum(sizes)} samples in {len(sizes)}"):
        check_same_data(folder, other, ALONE)


def test_before_the_first_checkpoint_data_may_change(tmp_path):
    """Without a checkpoint there is nothing to resume."""
    folder, _ = started(tmp_path, checkpoint=False)
    other = read_manifest(write_corpus(tmp_path / "other", [5]))
    check_same_data(folder, other, ALONE)
    assert other.fingerprint() in (folder.path / "data.json").read_text()


def test_the_fingerprint_sees_order_content_and_names(tmp_path):
    """Equal for a copy; other for swapped shards, another picture under the same key, another grouping into sources."""
    corpus = write_corpus(tmp_path / "a", [4, 3])
    shutil.copytree(corpus.parent, tmp_path / "copy")
    more = write_corpus(tmp_path / "b", [2, 2], source="b")
    wide = write_corpus(tmp_path / "wide", [4, 3], width=88)
    same = read_manifest(corpus).fingerprint()
    assert read_manifest(tmp_path / "copy").fingerprint() == same
    others = [
        read_manifest(wide),
        read_manifest([corpus, more]),
        read_manifest([more, corpus]),
        read_manifest(f"{tmp_path}/{{a,b}}"),
    ]
    assert len({same, *(manifest.fingerprint() for manifest in others)}) == 5


def test_the_fingerprint_sees_which_samples_of_a_tar_are_named(tmp_path):
    """Two selections of as many samples from the same tar are different data; a null selection is the whole tar."""
    path = write_corpus(tmp_path, [4])
    table = pq.read_table(path)
    prints = [read_manifest(path).fingerprint()]
    for selection in (None, "aa", "bb"):
        column = pa.array([selection], pa.string())
        pq.write_table(table.append_column("keys_sha256", column), path)
        prints.append(read_manifest(path).fingerprint())
    assert prints[0] == prints[1] and len(set(prints)) == 3


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "[]", "12", '{"fingerprint": 1}', '{"fingerprint": "x", "manifests": 1}']
)
def test_a_damaged_record_is_an_error(tmp_path, content):
    """Nested deep, or of other types."""
    folder, corpus = started(tmp_path)
    (folder.path / "data.json").write_text(content)
    with pytest.raises(ConfigError, match=r"data\.json is damaged"):
        check_same_data(folder, read_manifest(corpus), ALONE)


def test_a_record_that_is_no_file_is_an_error(tmp_path):
    folder, corpus = started(tmp_path)
    (folder.path / "data.json").unlink()
    (folder.path / "data.json").mkdir()
    with pytest.raises(ConfigError, match=r"data\.json cannot be read"):
        check_same_data(folder, read_manifest(corpus), ALONE)
