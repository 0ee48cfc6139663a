"""The tokenizer against every recorded call of the official one (transformers 4.8.1)."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from albef.inputs.tokenizer import AlbefTokenizer
from tests.parity import goldens

CALLS = [name for name, call in goldens.load("tokenizer").info.items() if isinstance(call, dict) and "kwargs" in call]


@pytest.fixture(scope="module")
def tokenizer() -> AlbefTokenizer:
    return AlbefTokenizer()


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return goldens.load("tokenizer").info


@pytest.mark.parametrize("name", CALLS)
def test_ids_and_masks_are_the_recorded_ones(name: str, tokenizer: AlbefTokenizer, recorded: dict[str, Any]) -> None:
    """The same ids and masks; the official max_length cuts only where truncation was asked for."""
    call, arguments = recorded[name], recorded[name]["kwargs"]
    max_length = arguments["max_length"] if arguments.get("truncation") else None
    pad: Literal["longest"] | int = "longest" if arguments["padding"] == "longest" else arguments["max_length"]
    input_ids, attention_mask = tokenizer(call["texts"], max_length=max_length, pad=pad)
    assert input_ids.dtype == attention_mask.dtype == torch.int64
    for i, text in enumerate(call["texts"]):
        assert input_ids[i].tolist() == call["input_ids"][i], f"{name}: {text!r}"
        assert attention_mask[i].tolist() == call["attention_mask"][i], f"{name}: {text!r}"


def test_pieces_are_the_recorded_ones(tokenizer: AlbefTokenizer, recorded: dict[str, Any]) -> None:
    """Texts split into the same word pieces."""
    for text, pieces in recorded["tokens"].items():
        assert tokenizer.tokenize(text) == pieces, repr(text)


def test_single_ids_decode_as_recorded(tokenizer: AlbefTokenizer, recorded: dict[str, Any]) -> None:
    """One id gives the same text, special tokens and continuation marks included."""
    for number, text in recorded["decode_single"].items():
        assert tokenizer.decode([int(number)]) == text


def test_special_tokens_have_the_recorded_ids(tokenizer: AlbefTokenizer, recorded: dict[str, Any]) -> None:
    """[PAD], [UNK], [CLS], [SEP] and [MASK] sit where the model expects them."""
    ours = {name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "unk", "cls", "sep", "mask")}
    assert ours == recorded["special"]
