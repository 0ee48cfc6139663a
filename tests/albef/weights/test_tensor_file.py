""".safetensors files: who may read them, and what is left when they cannot be written."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from albef.weights.tensor_file import read_tensors, write_pickle, write_tensors
from tests.support.small_disk import run_on_small_disk

TENSORS = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.ones(3, dtype=torch.bfloat16), "empty": torch.empty(0, 4)}


@pytest.fixture(params=[0o022, 0o027, 0o002, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_the_umask_says_who_may_read_it(umask: int, tmp_path: Path) -> None:
    """As of every other file that the process writes; also when it takes the place of one with another mode."""
    path = tmp_path / "w.safetensors"
    for _ in range(2):
        write_tensors(path, TENSORS, metadata={"format": "pt"})
        assert oct(path.stat().st_mode & 0o777) == oct(0o666 & ~umask)
        path.chmod(0o600)
    read = read_tensors(path)
    assert read.keys() == TENSORS.keys() and all(torch.equal(read[name], TENSORS[name]) for name in TENSORS)
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    """Tensors that share memory, which safetensors refuses, and a name that is a folder."""
    path = tmp_path / "w.safetensors"
    write_tensors(path, TENSORS)
    before = path.read_bytes()
    shared = torch.zeros(4)
    with pytest.raises(RuntimeError, match="share memory"):
        write_tensors(path, {"x": shared, "y": shared})
    assert path.read_bytes() == before
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_tensors(tmp_path / "folder", TENSORS)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "w.safetensors"]


def test_a_cut_file_is_damaged_and_a_missing_one_missing(tmp_path: Path) -> None:
    """Two kinds of error, because the ways out differ."""
    path = tmp_path / "w.safetensors"
    write_tensors(path, TENSORS)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SafetensorError):
        read_tensors(path)
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "none.safetensors")


def test_nothing_else_in_the_product_writes_safetensors() -> None:
    """Only through `write_tensors` do colleagues get to read what is written."""
    root = Path(__file__).resolve().parents[3]
    packages = ("albef", "base", "data_prep", "demo", "pipeline", "samples")
    files = [path for package in packages for path in (root / package).rglob("*.py")]
    writers = [path.relative_to(root) for path in files if re.search(r"\bsave_(file|model)\b", path.read_text())]
    assert writers == [Path("albef/weights/tensor_file.py")]


def write_too_much(disk: Path) -> dict[str, int | None]:
    """The errno that each writer raises, and what it leaves."""
    found: dict[str, int | None] = {}
    for writer in (write_tensors, write_pickle):
        try:
            writer(disk / "w", {"w": torch.zeros(1 << 20)})
        except OSError as error:
            found[writer.__name__] = error.errno
        if writer is write_tensors:
            found["left"] = len(list(disk.iterdir()))
    return found


def test_a_full_disk_is_an_os_error(tmp_path: Path) -> None:
    """4 MiB onto a disk of 1 MiB: ENOSPC, not what safetensors or torch's zip writer make of it."""
    found = run_on_small_disk(write_too_much, tmp_path / "disk", mib=1)
    assert found == {"write_tensors": errno.ENOSPC, "left": 0, "write_pickle": errno.ENOSPC}
