"""Verifying shards: all that is damaged is named with its shard and sample, and what the manifest then says."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_prep.errors import UnfinishedError
from data_prep.shards.manifest import read_manifest
from data_prep.stages.verify import ShardTask, check_shard, verify_folder
from tests.support.hostile_images import halves, jpeg, rotated_jpeg, saved
from tests.support.made_shards import SHARDS, copy, flip_in_image, members, rewrite, verify, whole

__all__ = ["copy", "whole"]  # fixtures


def test_manifest_offsets_cut_out_whole_samples(whole: Path) -> None:
    """Bytes [offset, offset + length) are a tar of that one sample, as tarfile sees it."""
    result = verify(whole)
    assert result.problems == [] and result.num_decoded == result.num_samples == 9
    rows = read_manifest(whole / "manifest.parquet")
    assert [row["path"] for row in rows] == [f"shards/made-0000{i}.tar" for i in range(SHARDS)]
    for row in rows:
        tar = (whole / row["path"]).read_bytes()
        assert (row["bytes"], row["num_samples"], row["listed"], row["yield"]) == (len(tar), 3, 4, 0.75)
        assert row["failures"] == [{"reason": "http_404", "count": 1}]
        for key, offset, length in zip(row["keys"], row["offsets"], row["lengths"], strict=True):
            piece = io.BytesIO(tar[offset : offset + length] + bytes(1024))
            with tarfile.open(fileobj=piece) as file:
                assert file.getnames() == [f"{key}.jpg", f"{key}.json"]
                assert sum(512 + -(-member.size // 512) * 512 for member in file.getmembers()) == length


def _edit_meta(**changes: object) -> Callable[[Path], None]:
    def edit(tar: Path) -> None:
        content = members(tar)
        meta = json.loads(content[1][1]) | changes
        meta = {name: value for name, value in meta.items() if value != "REMOVED"}
        rewrite(tar, [content[0], (content[1][0], json.dumps(meta).encode()), *content[2:]])

    return edit


def _another_image(data: bytes) -> Callable[[Path], None]:
    """Of the same size and with a right hash."""

    def edit(tar: Path) -> None:
        content = members(tar)
        meta = json.loads(content[1][1]) | {"sha256": hashlib.sha256(data).hexdigest()}
        rewrite(tar, [(content[0][0], data), (content[1][0], json.dumps(meta).encode()), *content[2:]])

    return edit


_not_an_image = _another_image(b"\xff\xd8\xff no")


FIRST, SECOND = "made-000000004", "made-000000006"


DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a flipped byte in an image": (flip_in_image, SECOND, "image bytes differ from their sha256"),
    "a flipped byte anywhere": (
        lambda tar: tar.write_bytes(tar.read_bytes()[:-1] + b"x"),
        f"{'made-000000007'}.json",
        "bytes after the tar's end mark",
    ),
    "a tar cut in the middle": (
        lambda tar: tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2]),
        "",
        "truncated tar",
    ),
    "a tar cut between members": (lambda tar: tar.write_bytes(tar.read_bytes()[:-10240]), "", "truncated tar"),
    "an empty tar": (lambda tar: tar.write_bytes(b""), "", "truncated tar: 0 bytes and no end mark"),
    "a missing json": (
        lambda tar: rewrite(tar, members(tar)[:1] + members(tar)[2:]),
        f"{FIRST}.jpg",
        "image without its .json",
    ),
    "a missing image": (lambda tar: rewrite(tar, members(tar)[1:]), f"{FIRST}.json", ".json without its image"),
    "a last image alone": (
        lambda tar: rewrite(tar, members(tar)[:-1]),
        "made-000000007.jpg",
        "image without its .json",
    ),
    "a duplicate key": (lambda tar: rewrite(tar, members(tar)[:2] * 2 + members(tar)[4:]), FIRST, "duplicate key"),
    "a missing sample": (lambda tar: rewrite(tar, members(tar)[:-2]), "", "holds 2 samples, 3 by its record"),
    "a foreign member": (
        lambda tar: rewrite(tar, [*members(tar), ("../../etc/x.jpg", b"x")]),
        "../../etc/x.jpg",
        "foreign member",
    ),
    "bytes that are no image": (_not_an_image, FIRST, "image cannot be decoded"),
    "a PNG": (_another_image(saved(halves(82, 64), "PNG")), FIRST, "image is PNG, not JPEG"),
    "a gray JPEG": (_another_image(jpeg(halves(82, 64, left=1, right=2, mode="L"))), FIRST, "image is L, not RGB"),
    "a JPEG on its side": (_another_image(rotated_jpeg(3, 82, 64)), FIRST, "image is not upright"),
    "a field that is gone": (_edit_meta(captions="REMOVED"), FIRST, "JSON has no captions"),
    "a field of another kind": (_edit_meta(width="82"), FIRST, "JSON field width is '82', not int"),
    "an id that is no text": (_edit_meta(id=7), FIRST, "JSON field id is 7, not str"),
    "another image's size": (_edit_meta(width=83), FIRST, "image is 82 x 64, 83 x 64 by its JSON"),
    "another sample's json": (_edit_meta(key=SECOND), FIRST, f"JSON is of key {SECOND}"),
    "captions of punctuation": (
        _edit_meta(captions=["...", "?!"]),
        FIRST,
        "no usable caption: cleaning leaves nothing",
    ),
    "an image beyond all bounds": (_edit_meta(width=10**5, height=10**5), FIRST, "more than 178956970 pixels"),
    "a size of nothing": (_edit_meta(original_height=0), FIRST, "JSON field original_height is 0"),
    "an empty caption": (_edit_meta(captions=["a", " "]), FIRST, "an empty caption, or none"),
    "no record": (lambda tar: tar.with_suffix(".json").unlink(), "", "no record made-00001.json beside it"),
    "a broken record": (lambda tar: tar.with_suffix(".json").write_text("{"), "", "is not a shard record"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_with_its_shard_and_sample(copy: Path, name: str) -> None:
    """One damaged shard of three: named, no manifest; the other two are fine."""
    damage, sample, reason = DAMAGE[name]
    damage(copy / "shards" / "made-00001.tar")
    result = verify(copy)
    assert result.manifest is None and not (copy / "manifest.parquet").exists()
    assert {problem.shard for problem in result.problems} == {"made-00001.tar"}
    assert any(problem.sample.startswith(sample) and reason in problem.reason for problem in result.problems), (
        result.problems
    )


def test_a_manifest_that_is_no_longer_true_is_withdrawn(copy: Path) -> None:
    """Training reads what the manifest names; a shard found bad must not stay in it."""
    assert verify(copy).manifest == copy / "manifest.parquet"
    flip_in_image(copy / "shards" / "made-00001.tar")
    result = verify(copy)
    assert result.withdrawn == copy / "manifest.parquet.withdrawn" and result.withdrawn.exists()
    assert not (copy / "manifest.parquet").exists()


def test_keep_going_writes_the_good_shards_only(copy: Path) -> None:
    flip_in_image(copy / "shards" / "made-00001.tar")
    result = verify(copy, keep_going=True)
    assert f"made-00001.tar: {SECOND}: image bytes differ from their sha256" in map(str, result.problems)
    rows = read_manifest(copy / "manifest.parquet")
    assert [row["path"] for row in rows] == ["shards/made-00000.tar", "shards/made-00002.tar"]


def test_a_key_in_two_shards_is_found_and_left_out_once(copy: Path) -> None:
    """Each shard is fine by itself; together they hold a sample twice."""
    rewrite(copy / "shards" / "made-00002.tar", members(copy / "shards" / "made-00001.tar"))
    result = verify(copy, keep_going=True)
    assert {(problem.shard, problem.reason) for problem in result.problems} == {
        ("made-00002.tar", "duplicate key: also in made-00001.tar")
    }
    assert [row["path"][-6:] for row in read_manifest(copy / "manifest.parquet")] == ["00.tar", "01.tar"]


def test_a_shard_that_vanishes_while_keys_are_compared_is_named(copy: Path) -> None:
    """Gone after the check that found it whole, before its keys are read again: an error, and no new manifest."""
    before = (copy / "manifest.parquet").read_bytes()
    last = copy / "shards" / "made-00002.tar"
    rewrite(last, members(copy / "shards" / "made-00001.tar"))
    with ThreadPoolExecutor(1) as pool, pytest.raises(UnfinishedError, match=r"made-00002\.tar changed while"):
        verify_folder(copy, pool, 1, on_shard=lambda done, total: last.unlink() if done == total else None)
    assert (copy / "manifest.parquet").read_bytes() == before


def test_a_manifest_of_the_good_shards_stays_while_what_it_names_is_whole(copy: Path) -> None:
    """Written with --keep-going beside a broken shard; the broken one, still there, does not withdraw it."""
    flip_in_image(copy / "shards" / "made-00001.tar")
    verify(copy, keep_going=True)
    result = verify(copy)
    assert result.problems and (result.stands, result.withdrawn) == (copy / "manifest.parquet", None)
    flip_in_image(copy / "shards" / "made-00002.tar")
    assert verify(copy).withdrawn


def test_without_any_shard_nothing_is_published(tmp_path: Path) -> None:
    """No job, no shard, at most something foreign: a manifest of nothing would be success that is none."""
    (tmp_path / "shards").mkdir()
    for expected in (1, 2):
        result = verify(tmp_path, keep_going=True)
        assert len(result.problems) == expected and result.manifest is None
        (tmp_path / "shards" / "a.tar").write_bytes(b"")


def _a_folder(tar: Path) -> None:
    tar.unlink()
    tar.mkdir()


def _a_pipe(tar: Path) -> None:
    tar.unlink()
    os.mkfifo(tar)


def _a_link(target: str) -> Callable[[Path], None]:
    def link(tar: Path) -> None:
        tar.unlink()
        tar.symlink_to(target)

    return link


@pytest.mark.parametrize(
    ("what", "reason", "manifest_stays"),
    [
        (_a_folder, "is a folder", False),
        (_a_pipe, "is no regular file", False),
        (_a_link("nowhere"), "No such file", False),
        (lambda file: _a_link(file.name)(file), "symbolic links", False),
        (_a_link("/proc/self/mem"), "Input/output error", True),  # reading at 0 is EIO, as of a failing disk
    ],
)
@pytest.mark.parametrize("of", ["tar", "json"])
def test_what_is_no_readable_file_is_named_and_waited_for_by_nobody(
    copy: Path, of: str, what: Callable[[Path], None], reason: str, manifest_stays: bool
) -> None:
    """Instead of a tar or of its record. A file that cannot be read now does not withdraw the manifest."""
    verify(copy)
    what(copy / "shards" / f"made-00001.{of}")
    result = verify(copy)
    (problem,) = result.problems
    assert problem.shard == "made-00001.tar" and ("cannot be read" in problem.reason or "no record" in problem.reason)
    assert reason in problem.reason or (of, reason) == ("json", "No such file")
    assert (copy / "manifest.parquet").exists() == manifest_stays == (result.stands is not None)


def test_a_sample_of_the_images_is_decoded_and_all_are_hashed(copy: Path) -> None:
    """With --sample 0 an undecodable image with a right hash passes, and a wrong hash does not."""
    _not_an_image(copy / "shards" / "made-00001.tar")
    result = verify(copy, fraction=0.0)
    assert (result.problems, result.num_decoded, result.num_samples) == ([], 0, 9)
    flip_in_image(copy / "shards" / "made-00002.tar")
    assert "differ from their sha256" in str(verify(copy, fraction=0.0).problems)


def test_the_same_seed_decodes_the_same_sample(whole: Path) -> None:
    counts = {
        seed: [check_shard(ShardTask(whole, "made-00000.tar", 4, 0.5, seed)).num_decoded for _ in range(2)]
        for seed in range(8)
    }
    assert all(first == second for first, second in counts.values())
    assert len({first for first, _ in counts.values()}) > 1
