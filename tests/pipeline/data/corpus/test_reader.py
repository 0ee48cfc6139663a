"""Samples by byte range, and a name for each way that can fail."""

from __future__ import annotations

import dataclasses
import json
import pickle
import tarfile

import pytest

from pipeline.data.corpus.manifest import read_manifest
from pipeline.data.corpus.reader import BadSample, ShardReader
from pipeline.data.decode import load_pixels, open_image
from tests.support.shards import jpeg, pair, picture, write_corpus, write_manifest


def reason_of(function, *args) -> str:
    """The reason of the BadSample that the call raises."""
    with pytest.raises(BadSample) as error:
        function(*args)
    return error.value.reason


def test_a_sample_is_what_tarfile_finds_under_its_name(tmp_path):
    """Every sample of two shards, compared with the tar read as a whole; in any order, with two files open."""
    manifest = read_manifest(write_corpus(tmp_path, [4, 3, 2]))
    reader = ShardReader(max_open=2)
    for index in (8, 0, 6, 3, 1, 5, 2, 4, 7):
        ref = manifest.sample(index)
        raw = reader.read(ref)
        with tarfile.open(ref.path) as tar:
            jpg, record = (tar.extractfile(f"{ref.key}.{kind}") for kind in ("jpg", "json"))
            assert jpg is not None and raw.jpg == jpg.read()
            assert record is not None and raw.captions == json.load(record)["captions"]
        assert raw.name == ref.key
    assert len(reader._files) == 2
    assert pickle.loads(pickle.dumps(reader)).read(manifest.sample(0)).name == "000000000"


def test_a_member_that_verify_refuses_is_refused_here_too(tmp_path):
    """A key of 150 letters needs a separate header, which no shard of ours has."""
    long = dataclasses.replace(pair(0), key="k" * 150)
    manifest = read_manifest(write_manifest(tmp_path, [[pair(1), long, pair(2)]]))
    with pytest.raises(BadSample, match=r"tar_damaged: .* foreign member: PAX header, not a plain file"):
        ShardReader().read(manifest.sample(1))
    assert ShardReader().read(manifest.sample(2)).jpg == pair(2).jpg


def test_each_failure_has_its_name(tmp_path):
    """A shard that is gone, cut, overwritten; a range that holds another sample, or half of one; a bad record."""
    records = [None, b"{", b"[]", b'{"captions": []}', b'{"captions": [1]}', b'{"captions": "a dog"}', b"\xff\xfe"]
    pairs = [dataclasses.replace(pair(number), record=record) for number, record in enumerate(records)]
    manifest = read_manifest(write_manifest(tmp_path, [pairs, [pair(10)], [pair(11)]]))
    reader, good = ShardReader(), manifest.sample(0)

    assert [reason_of(reader.read, manifest.sample(i)) for i in range(1, 7)] == [
        "json_damaged",
        *["caption_missing"] * 4,
        "json_damaged",
    ]
    assert reason_of(reader.read, dataclasses.replace(good, path=str(tmp_path / "gone.tar"))) == "shard_unreadable"
    assert reason_of(reader.read, dataclasses.replace(good, path=str(tmp_path))) == "shard_unreadable"
    assert reason_of(reader.read, dataclasses.replace(good, key="another")) == "key_mismatch"
    jpg_only = 512 + (len(pairs[0].jpg) + 511) // 512 * 512
    assert reason_of(reader.read, dataclasses.replace(good, length=jpg_only)) == "member_missing"
    assert reason_of(reader.read, dataclasses.replace(good, offset=good.offset + 100)) == "tar_damaged"

    cut = manifest.sample(7)
    with open(cut.path, "r+b") as file:
        file.truncate(cut.length // 2)
    assert reason_of(reader.read, cut) == "shard_truncated"
    overwritten = manifest.sample(8)
    with open(overwritten.path, "r+b") as file:
        file.write(b"x" * overwritten.length)
    assert reason_of(reader.read, overwritten) == "tar_damaged"


def test_images_that_do_not_decode_have_a_name(tmp_path):
    """Not an image; an image cut after its header; an image of absurd size, refused by its header alone."""
    good = jpeg(picture(1, 400, 300))
    assert reason_of(open_image, b"<html></html>", "k") == "image_undecodable"
    assert reason_of(open_image, b"", "k") == "image_undecodable"
    cut = open_image(good[: len(good) // 2], "k")
    assert reason_of(load_pixels, cut, "k") == "image_undecodable"
    size = good.index(b"\xff\xc0") + 5  # the frame header holds height and width, two bytes each
    assert reason_of(open_image, good[:size] + b"\xff\xff\xff\xff" + good[size + 4 :], "k") == "image_too_large"
    assert load_pixels(open_image(good, "k"), "k").size == (400, 300)


def test_running_out_of_memory_is_not_a_bad_sample(tmp_path):
    """Only named faults of the data become BadSample: a read of four exabytes raises what Python raises."""
    ref = read_manifest(write_corpus(tmp_path, [1])).sample(0)
    with pytest.raises(MemoryError):
        ShardReader().read(dataclasses.replace(ref, length=2**62))
