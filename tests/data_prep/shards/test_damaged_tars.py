"""Random damage to tars: `verify`, `import` and the trainer end with a sample, a counted failure or a reason."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.errors import InputError
from data_prep.shards.reader import read_samples
from data_prep.stages.import_tars import TarRows, list_tars
from data_prep.stages.verify import ShardTask, check_shard
from pipeline.data.corpus.locations import SampleRef
from pipeline.data.corpus.reader import BadSample, ShardReader
from tests.support.hostile_images import halves, jpeg
from tests.support.raw_tar import BLOCK, base256, with_checksum

ROUNDS = 300
SIZES = [0, 1, 511, 512, 513, 100_000, 8**11 - 1]


def headers(data: bytes) -> list[int]:
    """Where the headers are: blocks that carry their checksum."""
    blocks = range(0, len(data) - BLOCK + 1, BLOCK)
    return [at for at in blocks if with_checksum(data[at : at + BLOCK]) == data[at : at + BLOCK]]


def flipped(data: bytes, at: int, chance: random.Random) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << chance.randrange(8)
    return bytes(changed)


def in_header(data: bytes, chance: random.Random, change: Callable[[bytearray], object]) -> bytes:
    """One header changed, with a checksum that is right again."""
    at = chance.choice(headers(data))
    block = bytearray(data[at : at + BLOCK])
    change(block)
    return data[:at] + with_checksum(block) + data[at + BLOCK :]


def with_size(data: bytes, chance: random.Random) -> bytes:
    size = chance.choice([b"%011o\0" % chance.choice(SIZES), base256(chance.choice([-512, -1, 1 << 80, 3]))])
    return in_header(data, chance, lambda block: block.__setitem__(slice(124, 136), size))


def with_type(data: bytes, chance: random.Random) -> bytes:
    kind = chance.choice([bytes([code]) for code in b"0123456789\0DKLMNSVXgxZA"])
    return in_header(data, chance, lambda block: block.__setitem__(slice(156, 157), kind))


def with_field(data: bytes, chance: random.Random) -> bytes:
    at, value = chance.randrange(BLOCK), chance.randrange(256)
    return in_header(data, chance, lambda block: block.__setitem__(at, value))


def without_a_block(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(0, len(data), BLOCK)
    return data[:at] + data[at + BLOCK :]


def with_a_block(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(0, len(data), BLOCK)
    return data[:at] + chance.randbytes(BLOCK) + data[at:]


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    lambda data, chance: flipped(data, chance.choice(headers(data)) + chance.randrange(BLOCK), chance),
    lambda data, chance: flipped(data, chance.randrange(len(data)), chance),
    lambda data, chance: data[: chance.randrange(len(data))],
    with_size,
    with_type,
    with_field,
    without_a_block,
    with_a_block,
]


def mutated(data: bytes, number: int) -> bytes:
    """The same damage for the same number: one to three mutations."""
    chance = random.Random(number)
    for _ in range(chance.randint(1, 3)):
        if headers(data):
            data = chance.choice(MUTATIONS)(data, chance)
    return data


def shard_of_three() -> bytes:
    """As the writer writes it, small."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(3):
            image = jpeg(halves(30 + number, 20))
            fields: dict[str, object] = {
                "key": f"s-{number:09d}",
                "captions": [f"picture {number}"],
                "url": "u",
                "source": "s",
            }
            fields |= {"original_width": 30 + number, "original_height": 20, "width": 30 + number, "height": 20}
            text = json.dumps(fields | {"sha256": hashlib.sha256(image).hexdigest()}).encode()
            for name, content in ((f"s-{number:09d}.jpg", image), (f"s-{number:09d}.json", text)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_what_verify_passes_the_trainer_reads_to_the_same_bytes(tmp_path: Path) -> None:
    """The record's sums are right for the damaged bytes each time: only the content can show the damage."""
    good, passed, tar = shard_of_three(), 0, tmp_path / "shards" / "s-00000.tar"
    tar.parent.mkdir()
    for number in range(ROUNDS):
        data = mutated(good, number) if number else good
        tar.write_bytes(data)
        record = {"version": 1, "name": "s-00000", "source": "s", "listed": 3, "kept": 3, "failed": {}, "created": "x"}
        record |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "tools": {}, "arguments": {}}
        tar.with_suffix(".json").write_text(json.dumps(record))
        check = check_shard(ShardTask(tmp_path, tar.name, 3, 1.0, 0))
        assert (check.row is None) == bool(check.problems), number
        if check.row is None:
            continue
        passed += 1
        for sample in read_samples(tar):
            ref = SampleRef(str(tar), len(data), sample.offset, sample.length, sample.key, sample.key)
            read = ShardReader().read(ref)
            assert (read.jpg, read.captions) == (sample.image, json.loads(sample.meta)["captions"]), number
    assert 1 < passed < ROUNDS / 2, f"{passed} of {ROUNDS} passed: the damage is too weak, or a good shard is refused"


def test_the_trainers_reader_names_all_damage(tmp_path: Path) -> None:
    """The place of each sample is known from before the damage: it is read, or it is a BadSample."""
    good, tar = shard_of_three(), tmp_path / "s-00000.tar"
    tar.write_bytes(good)
    refs = [SampleRef(str(tar), len(good), one.offset, one.length, one.key, one.key) for one in read_samples(tar)]
    outcomes = {"read": 0, "bad": 0}
    for number in range(ROUNDS):
        tar.write_bytes(mutated(good, number))
        for ref in refs:
            try:
                assert len(ShardReader().read(ref).jpg) <= ref.length
                outcomes["read"] += 1
            except BadSample:
                outcomes["bad"] += 1
    assert min(outcomes.values()) > 50, outcomes


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_import_reads_what_it_lists(tmp_path: Path, style: int) -> None:
    """With --keep-going every row has an image or a reason; without, the first damage is an InputError."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=style) as archive:
        for number in range(3):
            key = f"{number}" * (150 if style != tarfile.USTAR_FORMAT else 1)
            for name, content in ((f"{key}.jpg", b"i" * 700), (f"{key}.txt", b"a text"), (f"{key}.json", b"{}")):
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(content), 1.5 if style == tarfile.PAX_FORMAT else 1
                archive.addfile(info, io.BytesIO(content))
    good, tar, members = buffer.getvalue(), tmp_path / "x.tar", tmp_path / "members.parquet"
    kept = refused = 0
    for number in range(ROUNDS // 3):
        tar.write_bytes(mutated(good, number))
        rows = dict(enumerate(list_tars([tar], members, 100, processes=1, keep_going=True)))
        for result in TarRows((tar,), members, 1000).results(0, rows) if rows else ():
            assert (result.data is None) == (result.failure is not None)
            kept += result.data is not None
        try:
            list(list_tars([tar], members, 100, processes=1))
        except InputError as error:
            refused += 1
            assert len(error.message) < 400
    assert kept > 30 and refused > 30, (kept, refused)
