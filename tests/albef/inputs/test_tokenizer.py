"""The tokenizer where the recordings do not reach: saving, other vocabularies, faults."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from albef.errors import CheckpointError
from albef.inputs.tokenizer import PACKAGED_VOCABULARY, AlbefTokenizer

TEXTS = ["a skateboarder at a café", "yes[SEP]", ""]


def test_a_saved_folder_gives_the_same_ids(tmp_path: Path) -> None:
    """In this class and in transformers' AutoTokenizer, which must not put a [SEP] at the end."""
    original = AlbefTokenizer()
    original.save(tmp_path)
    assert (tmp_path / "vocab.txt").read_bytes() == (PACKAGED_VOCABULARY / "vocab.txt").read_bytes()
    input_ids, attention_mask = original(TEXTS)
    again = AlbefTokenizer(tmp_path)(TEXTS)
    assert torch.equal(again[0], input_ids) and torch.equal(again[1], attention_mask)
    theirs = AutoTokenizer.from_pretrained(tmp_path)(TEXTS, padding=True)
    assert theirs["input_ids"] == input_ids.tolist()
    assert theirs["attention_mask"] == attention_mask.tolist()


def test_another_vocabulary_is_used_as_it_is(tmp_path: Path) -> None:
    """Ids are line numbers of the given file, special tokens wherever they stand."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "##s", "a"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    tokenizer = AlbefTokenizer(tmp_path)
    input_ids, attention_mask = tokenizer(["a cats", "dog [MASK]"])
    assert input_ids.tolist() == [[2, 7, 5, 6], [2, 1, 4, 0]]
    assert attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert tokenizer.vocab_size == 8 and tokenizer.pieces([7, 5, 6]) == ["a", "cat", "##s"]
    assert tokenizer.decode(torch.tensor([7, 5, 6])) == "a cats"


def test_length_counts_cls() -> None:
    """max_length 3 leaves [CLS] and two pieces; a fixed width is filled with [PAD]; a longer text is an error."""
    tokenizer = AlbefTokenizer()
    input_ids, attention_mask = tokenizer(["one two three four"], max_length=3, pad=5)
    assert input_ids.shape == (1, 5) and attention_mask.tolist() == [[1, 1, 1, 0, 0]]
    assert input_ids[0, 0] == tokenizer.cls_token_id
    with pytest.raises(ValueError, match="5 tokens and pad is 4"):
        tokenizer(["one two three four"], max_length=None, pad=4)
    assert tokenizer([])[0].shape == (0, 0)


def test_a_string_is_one_text() -> None:
    """Not its letters."""
    tokenizer = AlbefTokenizer()
    assert torch.equal(tokenizer("a dog")[0], tokenizer(["a dog"])[0])


def test_half_a_surrogate_pair_is_dropped() -> None:
    """JSON may hold one, UTF-8 cannot; two halves that belong together are the character."""
    tokenizer = AlbefTokenizer()
    assert torch.equal(tokenizer("a \ud83ddog")[0], tokenizer("a dog")[0])
    assert torch.equal(tokenizer("\ud83d\ude00")[0], tokenizer("\N{GRINNING FACE}")[0])
    assert tokenizer.tokenize("dog\udfff") == ["dog"]


def test_it_can_be_sent_to_a_worker() -> None:
    """Pickled and unpickled, it makes the same ids."""
    tokenizer = AlbefTokenizer()
    assert torch.equal(pickle.loads(pickle.dumps(tokenizer))(TEXTS)[0], tokenizer(TEXTS)[0])


def test_a_folder_without_vocabulary_is_refused(tmp_path: Path) -> None:
    """No vocab.txt, one that is no BERT's, and a damaged tokenizer.json are errors that name the place."""
    with pytest.raises(CheckpointError, match=r"vocab\.txt does not exist"):
        AlbefTokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_text("hello\nworld\n")
    with pytest.raises(CheckpointError, match=r"lacks the special tokens \[PAD\]"):
        AlbefTokenizer(tmp_path)
    AlbefTokenizer().save(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        AlbefTokenizer(tmp_path)
