"""Model folders that are damaged, incomplete, or written by a stranger who means no good: errors, within seconds."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from albef import Albef
from albef.config import AlbefConfig
from albef.errors import CheckpointError
from albef.model import AlbefForPretraining
from albef.weights.tensor_file import write_tensors
from tests.support.small_model import small_config


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    Albef(AlbefForPretraining(small_config())).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy of an exported model, to damage."""
    return shutil.copytree(exported, tmp_path / "model")


def edit(name: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | values))

    return change


def halve(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])

    return change


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"/config\.json does not exist"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors does not exist"),
        (lambda folder: (folder / "vocab.txt").unlink(), r"vocab\.txt does not exist"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), r"preprocessor_config\.json does not exist"),
        (halve("config.json"), r"config\.json cannot be read"),
        (halve("model.safetensors"), r"model\.safetensors cannot be read"),
        (halve("tokenizer.json"), r"tokenizer files in .* cannot be read"),
        (halve("vocab.txt"), r"more entries than its vocab\.txt of \d+ lines"),
        (edit("config.json", format_version=2), "format_version is 2"),
        (edit("config.json", model={"image_size": "large"}), "describes no model: model config lacks keys: patch_size"),
        (edit("config.json", model={"depth": 3}), "unknown keys: depth"),
        (edit("config.json", model=AlbefConfig.tiny().to_dict()), "does not fit|differ"),
        (edit("preprocessor_config.json", image_mean=[0.5, 0.5, 0.5]), "image_mean differ"),
    ],
)
def test_a_damaged_folder_is_refused(damage: Callable[[Path], None], named: str, folder: Path) -> None:
    """Each file missing, cut off or of something else: an error that names it and what to give instead."""
    damage(folder)
    with pytest.raises(CheckpointError, match=named) as error:
        Albef.from_pretrained(folder, device="cpu")
    assert error.value.hint


def of_model(key: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        content["model"][key] = value
        (folder / "config.json").write_text(json.dumps(content))

    return change


def written(name: str, data: bytes | str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)

    return change


def replaced_by(make: Callable[[Path], None], name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def without(key: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        del content["model"][key]
        (folder / "config.json").write_text(json.dumps(content))

    return change


def retyped(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    write_tensors(folder / "model.safetensors", {name: tensor.to(torch.int32) for name, tensor in tensors.items()})


def cut_rows(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    write_tensors(folder / "model.safetensors", tensors | {"itm_head.weight": tensors["itm_head.weight"][:1]})


FILES = ("config.json", "preprocessor_config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json")
ABSURD_VALUES: dict[str, tuple[object, ...]] = {
    "vision_depth": (10**6, -1, 0, True, 1.0, "1", None, [1]),
    "embed_dim": (10**9, 10**300),
    "vocab_size": (10**12,),
    "text_heads": (0, False, "2"),
    "vision_heads": (float("inf"),),
    "layer_init_std": (float("nan"), float("inf"), -0.1, 0, "0.02"),
    "temperature": (-1.0, 0, True, {}),
    "hidden_dropout": (float("nan"), 1.5),
    "image_size": (10**8,),
    "mask_token_id": (-1, 10**9),
}
ABSURD = [
    *[
        (of_model(key, value), f"describes no model: model: {key} is ")
        for key, values in ABSURD_VALUES.items()
        for value in values
    ],
    (of_model("cls_token_id", 30_522), "cls_token_id 30522 is not in a vocabulary of 30522"),
    (of_model("vision_heads", 5), "vision_width 16 is not a multiple of vision_heads 5"),
    (of_model("fusion_depth", 100), r"model\.safetensors does not fit"),
    (of_model("vocab_size", 30_521), r"\(30522, 16\), the model has \(30521, 16\)"),
    (without("vision_heads"), "lacks keys: vision_heads"),
    (edit("config.json", model=[]), "not of an ALBEF in format 1"),
    (edit("config.json", format_version=True), "format_version is True"),
    (edit("config.json", format_version="1" * 10_000), r"format_version is '1{10,40}\.\.\. "),
    *[
        (edit("config.json", max_text_tokens=value), r"config\.json: max_text_tokens is ")
        for value in ("x", 0, -3, 2.5, None, True, [30], float("nan"))
    ],
    *[
        (change(name), f"{name}.*{named}")
        for name in FILES
        for change, named in (
            (lambda name: written(name, "\n".join(["a caption"] * 9).encode("utf-16")), "cannot be read: not UTF-8"),
            (lambda name: replaced_by(Path.mkdir, name), "is a folder"),
            (lambda name: replaced_by(os.mkfifo, name), "is no regular file"),
        )
    ],
    *[
        (written(name, "[" * 200_000), f"{name} cannot be read: nested more than 64 levels deep")
        for name in ("config.json", "preprocessor_config.json")
    ],
    *[
        (written(name, text), f"{name} (cannot be read|holds no JSON object)")
        for name in ("config.json", "preprocessor_config.json")
        for text in ("", "[]", "null", '{"a": ' + "9" * 5_000 + "}")
    ],
    (written("tokenizer.json", "[" * 200_000), "tokenizer files in .* cannot be read"),
    (written("tokenizer.json", "{}"), "tokenizer files in .* cannot be read"),
    (written("vocab.txt", "[UNK]\n[PAD]\n[CLS]\n[SEP]\n[MASK]\n" + "a\n" * 30_517), r"another \[PAD\] than its vocab"),
    (edit("preprocessor_config.json", size=float("nan")), "size differ"),
    *[
        (written("model.safetensors", data), r"model\.safetensors cannot be read")
        for data in ((2**60).to_bytes(8, "little") + b"{}", bytes(8), b"{", (2).to_bytes(8, "little") + b"[]")
    ],
    (replaced_by(os.mkfifo, "model.safetensors"), "is no regular file"),
    (retyped, "tensors are no floating-point numbers"),
    (cut_rows, r"itm_head\.weight is \(1, 16\), the model has \(2, 16\)"),
]


@pytest.mark.parametrize(("damage", "named"), ABSURD)
def test_an_absurd_folder_is_refused(damage: Callable[[Path], None], named: str, folder: Path) -> None:
    """What a stranger may write into a model folder: an error by name, before memory or time is spent on it."""
    damage(folder)
    with pytest.raises(CheckpointError, match=named) as error:
        Albef.from_pretrained(folder, device="cpu")
    assert error.value.hint and len(error.value.message) < 400 + len(str(folder))


def test_a_byte_order_mark_is_no_damage(folder: Path) -> None:
    """As editors of Windows write it."""
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    Albef.from_pretrained(folder, device="cpu")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """The path is in the message, the command that makes such a folder in the hint."""
    with pytest.raises(CheckpointError, match="nowhere does not exist") as error:
        Albef.from_pretrained(tmp_path / "nowhere")
    assert "pipeline export" in error.value.hint
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file is not a folder"):
        Albef.from_pretrained(tmp_path / "file")
