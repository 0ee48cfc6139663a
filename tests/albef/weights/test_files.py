"""Weight files: damaged or foreign ones are refused with what is wrong."""

from __future__ import annotations

import argparse
import collections
import datetime
import gzip
import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from albef.errors import CheckpointError
from albef.weights.files import load_strictly, read_weights
from tests.support.unprivileged import as_ordinary_user


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_wrapped_and_bare_files_are_read(wrapper: str | None, tmp_path: Path) -> None:
    """The tensors are found bare and under the keys that training scripts use."""
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.bfloat16)}
    torch.save({wrapper: tensors, "epoch": 3} if wrapper else tensors, tmp_path / "w.pth")
    read = read_weights(tmp_path / "w.pth")
    assert read.keys() == tensors.keys() and all(torch.equal(read[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("fault", ["cut in half", "empty", "a web page"])
def test_damaged_files_are_refused(fault: str, suffix: str, tmp_path: Path) -> None:
    """A download that broke off, or brought an error page."""
    path = tmp_path / f"w{suffix}"
    tensors = {"a": torch.zeros(1000)}
    if suffix == ".pth":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    whole = path.read_bytes()
    path.write_bytes({"cut in half": whole[: len(whole) // 2], "empty": b"", "a web page": b"<html>404</html>"}[fault])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_weights(path)


@pytest.mark.parametrize("content", [[1, 2], {"model": {"a": 1}}, {}, "text", {"model": {}}])
def test_a_file_without_weights_is_refused(content: object, tmp_path: Path) -> None:
    """What torch can read but is no state dict."""
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="no state dict"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_file_to_read_is_named(suffix: str, tmp_path: Path) -> None:
    """Missing, a folder, a pipe nobody writes to, without permission: each by name, and no damage is suspected."""
    missing, folder, pipe, private = (tmp_path / f"{name}{suffix}" for name in ("none", "folder", "pipe", "private"))
    folder.mkdir()
    os.mkfifo(pipe)
    private.write_bytes(b"weights")
    private.chmod(0)
    messages = {
        missing: "does not exist",
        missing / "below": "does not exist",
        folder: "is a folder",
        pipe: "is no regular file",
        private: "may not be read: Permission denied",
    }
    for path, message in messages.items():
        reader = as_ordinary_user() if path == private else nullcontext()
        with reader, pytest.raises(CheckpointError) as error:
            read_weights(path)
        assert error.value.message == f"{path} {message}"


class Settings:
    """What a training script may have saved beside its weights."""


def test_settings_beside_the_weights_do_not_matter(tmp_path: Path) -> None:
    """A namespace, paths, numpy's numbers, dates: discarded without being run; zip and legacy files alike."""
    weights = {"a": torch.arange(3.0)}
    beside = {
        "args": argparse.Namespace(lr=1e-4, out=Path("/runs"), nested=argparse.Namespace(a=[1])),
        "best": np.float64(71.5),
        "curve": np.arange(4, dtype=np.float32),
        "when": datetime.datetime(2021, 7, 16),
        "counts": collections.defaultdict(list, {"a": [1]}),
    }
    for zipped in (True, False):
        torch.save({"model": weights} | beside, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        assert torch.equal(read_weights(tmp_path / "w.pth")["a"], weights["a"])


def test_an_object_that_may_run_code_is_named(tmp_path: Path) -> None:
    """The class that stands in the way, and how to save the weights alone."""
    for zipped in (True, False):
        content = {"model": {"a": torch.zeros(1)}, "settings": Settings()}
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"holds an object of \S*test_files\.Settings") as error:
            read_weights(tmp_path / "w.pth")
        assert "weights_only=False" in error.value.hint


def test_what_a_download_brings_instead_is_named(tmp_path: Path) -> None:
    """By its first bytes, under any name."""
    found = {
        b"\n <!DOCTYPE html><title>Sign in</title>": "a web page",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n": "a pointer of git-lfs",
        b'{"error": "not found"}': "a JSON text",
        gzip.compress(b"weights"): "compressed by gzip",
    }
    for suffix in (".pth", ".safetensors", ".bin"):
        for data, what in found.items():
            (tmp_path / f"w{suffix}").write_bytes(data)
            with pytest.raises(CheckpointError, match=f"cannot be read: it is {what}"):
                read_weights(tmp_path / f"w{suffix}")


def test_strict_loading_names_what_does_not_fit() -> None:
    """Missing, unknown and misshapen tensors are named, and nothing is loaded."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {name: torch.full_like(tensor, 7.0) for name, tensor in model.state_dict().items()}
    partial = {name: tensor for name, tensor in state.items() if not name.startswith("1.")}
    with pytest.raises(CheckpointError, match=r"2 missing \(1\.weight, 1\.bias\)"):
        load_strictly(model, partial, source="file")
    with pytest.raises(CheckpointError, match=r"1 unknown \(2\.weight\)"):
        load_strictly(model, state | {"2.weight": torch.zeros(1)}, source="file")
    with pytest.raises(CheckpointError, match=r"0\.bias is \(2,\), the model has \(3,\)"):
        load_strictly(model, state | {"0.bias": torch.zeros(2)}, source="file")
    assert not any(bool(weight.eq(7).any()) for weight in model.parameters()), "a refused file must not be half loaded"
    load_strictly(model, state, source="file")
    assert all(bool(weight.eq(7).all()) for weight in model.parameters())


def test_a_header_that_looks_like_text_is_none(tmp_path: Path) -> None:
    """A .safetensors file begins with its header's length, whose first byte may be that of `<` or `{`."""
    begins = set()
    for length in range(0, 256, 8):  # the header is padded to eight bytes
        save_file({"a": torch.zeros(2)}, tmp_path / "w.safetensors", metadata={"note": "x" * length})
        begins.add((tmp_path / "w.safetensors").read_bytes()[0])
        assert read_weights(tmp_path / "w.safetensors").keys() == {"a"}
    assert len(begins) == 32
