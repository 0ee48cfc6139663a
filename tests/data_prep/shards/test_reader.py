"""Reading a shard that cannot be read, ends too early, or changed after its manifest was written."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from data_prep.errors import InputError
from data_prep.report.sample_stats import sample_stats
from data_prep.shards.reader import TarUnread, read_samples
from samples.tar import TarDamage
from tests.support.made_shards import SHARDS, copy, verify, whole
from tests.support.raw_tar import base256, with_checksum
from tests.support.unprivileged import as_ordinary_user

__all__ = ["copy", "whole"]  # fixtures


def test_a_missing_permission_is_no_damage(copy: Path) -> None:
    """What the shard holds is not known; the manifest that names it is not withdrawn for it (the test above)."""
    tar = copy / "shards" / "made-00001.tar"
    tar.chmod(0)
    with as_ordinary_user(), pytest.raises(TarUnread, match="cannot be read: Permission denied"):
        list(read_samples(tar))


def test_a_size_in_a_header_beyond_the_file_is_a_truncated_tar(tmp_path: Path) -> None:
    """A damaged header that announces 8 GiB must not be allocated."""
    member = tarfile.TarInfo("a.jpg")
    member.size = 8 * 2**30 - 1
    path = tmp_path / "x.tar"
    path.write_bytes(member.tobuf(tarfile.USTAR_FORMAT) + bytes(10_240))
    with pytest.raises(TarDamage, match=r"ends inside a\.jpg"):
        list(read_samples(path))


@pytest.mark.parametrize("name", ["broken header", "ends inside", "cannot be read", "JSON has no key"])
def test_a_report_of_a_shard_that_changed_names_it(copy: Path, name: str) -> None:
    """The report believes the manifest's offsets; what it then finds there is read as strictly as elsewhere."""
    verify(copy)
    tar = copy / "shards" / "made-00001.tar"
    data = tar.read_bytes()
    changes = {
        "broken header": b"x" + data[1:],
        "ends inside": with_checksum(data[:124] + base256(1 << 80) + data[136:512]) + data[512:],
        "JSON has no key": data.replace(b'"key"', b'"kez"'),
    }
    if name == "cannot be read":
        tar.unlink()
    else:
        tar.write_bytes(changes[name])
    with pytest.raises(InputError, match=rf"made-00001\.tar: .*{name}"):
        sample_stats(copy / "manifest.parquet", ["made"] * SHARDS, SHARDS, 0)
