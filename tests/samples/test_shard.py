"""A shard's members: KEY.jpg then KEY.json, plain USTAR, and everything else refused, whole or by range."""

from __future__ import annotations

import io

import pytest

from samples.shard import MAX_RECORD_BYTES, NoPair, StoredSample, sample_of_range, shard_samples
from samples.tar import TarDamage
from tests.support.raw_tar import END, base256, header, member, pax, pax_record

A = member("a.jpg", b"picture a") + member("a.json", b"{}")
B = member("b.jpg", b"") + member("b.json", b"[1]")


def whole(data: bytes) -> list[StoredSample]:
    return list(shard_samples(io.BytesIO(data), len(data)))


def test_a_range_reads_as_the_whole_does() -> None:
    """Offsets and lengths cut out each sample; the trainer reads from them what `verify` read."""
    first, second = whole(A + B + bytes(10240))
    assert (first.key, first.offset, first.length, first.image, first.meta) == ("a", 0, 2048, b"picture a", b"{}")
    assert (second.key, second.offset, second.length, second.image, second.meta) == ("b", 2048, 1536, b"", b"[1]")
    for sample in (first, second):
        alone = sample_of_range((A + B)[sample.offset : sample.offset + sample.length])
        assert (alone.key, alone.image, alone.meta) == (sample.key, sample.image, sample.meta)


JSON = member("x.json", b"{}")
REFUSED = {
    "a symbolic link": (header("x.jpg", 0, b"2") + JSON, "foreign member: symbolic link, not a plain file"),
    "a hard link": (header("x.jpg", 0, b"1") + JSON, "foreign member: hard link"),
    "a folder": (header("x.jpg", 0, b"5") + JSON, "foreign member: folder"),
    "a FIFO": (header("x.jpg", 0, b"6") + JSON, "foreign member: FIFO"),
    "a sparse file": (header("x.jpg", 0, b"S") + JSON, "foreign member: sparse file"),
    "a PAX header": (pax(pax_record("path", "x.jpg")) + header("y") + JSON, "foreign member: PAX header"),
    "a GNU long name": (member("@L", b"x.jpg", b"L") + header("y") + JSON, "foreign member: GNU header with a long"),
    "an unknown type": (header("x.jpg", 0, b"Z") + JSON, "unknown type 'Z'"),
    "GNU's magic": (member("x.jpg", b"", magic=b"ustar  \0") + JSON, "not USTAR's of a plain file"),
    "no magic": (member("x.jpg", b"", magic=b"") + JSON, "not USTAR's of a plain file"),
    "a folder in a name": (member("d/x.jpg", b"") + JSON, "only KEY.jpg and KEY.json"),
    "a way out in a name": (member("../x.jpg", b"") + JSON, "only KEY.jpg and KEY.json"),
    "no key": (member(".jpg", b"") + JSON, "only KEY.jpg and KEY.json"),
    "a dot in a key": (member("x.y.jpg", b"") + JSON, "only KEY.jpg and KEY.json"),
    "capitals": (member("x.JPG", b"") + JSON, "only KEY.jpg and KEY.json"),
    "a PNG": (member("x.png", b"") + JSON, "only KEY.jpg and KEY.json"),
    "a name that is not UTF-8": (member(b"\xff.jpg", b"") + JSON, "only KEY.jpg and KEY.json"),
    "a negative size": (header("x.jpg", base256(-512)) + JSON, "a size of -512"),
    "a record of a megabyte and a byte": (
        member("x.jpg", b"") + member("x.json", b" " * (MAX_RECORD_BYTES + 1)),
        f"more than {MAX_RECORD_BYTES}",
    ),
    "a size beyond the file": (header("x.jpg", 8 * 2**30 - 1) + JSON, "ends inside x.jpg"),
    "a text first": (member("x.json", b"{}") + member("x.jpg", b""), ".json without its image"),
    "another one's text": (member("x.jpg", b"") + member("y.json", b"{}"), "image without its .json"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_shard_does_not_have_is_refused_in_the_same_words(name: str) -> None:
    """By `verify`, after the samples before it, and by the trainer in the range of a sample."""
    data, reason = REFUSED[name]
    with pytest.raises(TarDamage) as whole_damage:
        whole(A + data + END)
    with pytest.raises(TarDamage) as range_damage:
        sample_of_range(data)
    assert reason in whole_damage.value.reason
    assert range_damage.value.member == whole_damage.value.member
    if "byte" not in reason and "inside" not in reason:  # those have the place or the size of what was read
        assert range_damage.value.reason.partition(" at byte")[0] == whole_damage.value.reason.partition(" at byte")[0]


def test_a_range_that_is_not_one_sample_is_refused() -> None:
    """Half of one, one and a half, two, and nothing."""
    with pytest.raises(NoPair, match="image without its"):
        sample_of_range(A[:1024])
    with pytest.raises(TarDamage, match="more than one sample"):
        sample_of_range(A + B)
    with pytest.raises(TarDamage, match="truncated"):
        sample_of_range(A[:1100])
    with pytest.raises(TarDamage, match="truncated"):
        sample_of_range(b"")


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (b"", "no end mark"),
        (bytes(512), "the end mark is cut"),
        (END + b"x", "bytes after"),
        (bytes(10240 + 1024), "bytes after"),
    ],
)
def test_a_shard_has_its_end_mark_and_nothing_behind_it(tail: bytes, reason: str) -> None:
    with pytest.raises(TarDamage, match=reason):
        whole(A + tail)
