"""Text to word-piece ids, the way ALBEF was trained: `[CLS] x`, without the `[SEP]` that BERT puts at the end."""

# B texts, L tokens

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

# transformers 5 creates the first name at run time
from transformers import BertTokenizerFast, PreTrainedTokenizerFast  # type: ignore[attr-defined]

from albef.errors import CheckpointError
from albef.inputs.arguments import as_texts
from albef.regular_file import read_text
from samples.quote import quote

PACKAGED_VOCABULARY = Path(__file__).parents[1] / "assets" / "bert-base-uncased"
HINT = "give a folder with BERT's vocab.txt, such as an exported model, or none for the packaged vocabulary"
WRITE_AGAIN = "write the tokenizer files again: AlbefTokenizer().save(folder)"
SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


class AlbefTokenizer:
    """Lower-casing BERT word pieces from a vocabulary folder.

    The official tokenizer leaves out the final [SEP] on purpose (salesforce/ALBEF#75), so the stock tokenizer would
    give the model another input. A special token written in the text (VQA answers end in "[SEP]") is one token.

    Args:
        vocab_dir: folder with a `vocab.txt`; by default the packaged bert-base-uncased vocabulary.

    Raises:
        CheckpointError: there is no vocabulary, it lacks a special token of BERT, or other files do not fit it.
    """

    def __init__(self, vocab_dir: str | Path | None = None) -> None:
        folder = PACKAGED_VOCABULARY if vocab_dir is None else Path(vocab_dir)
        vocabulary = folder / "vocab.txt"
        pieces = read_text(vocabulary, hint=HINT).rstrip("\n").split("\n")
        missing = [token for token in SPECIAL_TOKENS.values() if token not in pieces]
        if missing:
            raise CheckpointError(
                f"{vocabulary} lacks the special tokens {', '.join(missing)}",
                "it is not the vocabulary of a BERT; take the one the model was trained with",
            )
        self._backend = _read_backend(folder)
        moved = [token for token in SPECIAL_TOKENS.values() if self._backend.token_to_id(token) != pieces.index(token)]
        if moved or max(self._backend.get_vocab().values()) >= len(pieces):
            fault = f"another {moved[0]}" if moved else "more entries"
            raise CheckpointError(
                f"the tokenizer files in {folder} have {fault} than its vocab.txt of {len(pieces)} lines", WRITE_AGAIN
            )
        self._backend.no_truncation()
        self._backend.no_padding()
        self._pieces = pieces
        self.vocab_size = len(pieces)
        self.pad_token_id, self.unk_token_id, self.cls_token_id, self.sep_token_id, self.mask_token_id = (
            pieces.index(token) for token in SPECIAL_TOKENS.values()
        )

    def __call__(
        self,
        texts: str | Sequence[str],
        max_length: int | None = 25,
        pad: Literal["longest"] | int = "longest",
    ) -> tuple[Tensor, Tensor]:
        """Token ids of a batch of texts.

        Args:
            texts: B texts, or one, cleaned by the caller (`albef.inputs.captions`).
            max_length: cut each to this many tokens, [CLS] included; None does not cut.
            pad: fill with [PAD] up to the longest of the batch, or to this many tokens.

        Returns: input_ids (B, L) and attention_mask (B, L), 1 where there is a token; both int64.

        Raises:
            ValueError: a text is longer than the number of tokens given as `pad`.
            TypeError: the input is neither a string nor a list of strings.
        """
        # one by one: the batch call starts a thread per core in every loader worker, for 30 microseconds of work
        rows = [
            [self.cls_token_id, *self._backend.encode(_encodable(text), add_special_tokens=False).ids][:max_length]
            for text in as_texts(texts)
        ]
        longest = max(map(len, rows), default=0)
        length = longest if pad == "longest" else pad
        if longest > length:
            raise ValueError(f"a text has {longest} tokens and pad is {length}: cut with max_length={length}")
        input_ids = torch.full((len(rows), length), self.pad_token_id, dtype=torch.int64)  # (B, L)
        attention_mask = torch.zeros_like(input_ids)  # (B, L)
        for i, row in enumerate(rows):
            input_ids[i, : len(row)] = torch.tensor(row)
            attention_mask[i, : len(row)] = 1
        return input_ids, attention_mask

    def tokenize(self, text: str) -> list[str]:
        """The word pieces of a text, without [CLS]: "skateboarder" -> skate, ##board, ##er."""
        return list(self._backend.encode(_encodable(text), add_special_tokens=False).tokens)

    def pieces(self, ids: Sequence[int] | Tensor) -> list[str]:
        """The word piece of each id."""
        return [self._pieces[int(i)] for i in ids]

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Ids back to text, pieces joined to words; special tokens are written out."""
        return str(self._backend.decode([int(i) for i in ids], skip_special_tokens=False))

    def save(self, folder: str | Path) -> None:
        """Write the vocabulary, and files from which `transformers.AutoTokenizer` gets the same ids.

        The stock BERT class would append [SEP]; the folder therefore names the general class and carries the rule
        "[CLS] and the text" in its tokenizer.json.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.txt").write_text("".join(piece + "\n" for piece in self._pieces), encoding="utf-8")
        rules = json.loads(self._backend.to_str())
        cls = SPECIAL_TOKENS["cls"]
        first: list[dict] = [{"SpecialToken": {"id": cls, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        rules["post_processor"] = {
            "type": "TemplateProcessing",
            "single": first,
            "pair": [*first, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {cls: {"id": cls, "ids": [self.cls_token_id], "tokens": [cls]}},
        }
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": True,
        } | {f"{name}_token": token for name, token in SPECIAL_TOKENS.items()}
        (folder / "tokenizer.json").write_text(json.dumps(rules, ensure_ascii=False), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _read_backend(folder: Path) -> Any:
    """The tokenizer of the tokenizers library that these files describe."""
    for path in [*folder.glob("*.json"), *folder.glob("*.jinja")]:
        read_text(path, hint=WRITE_AGAIN)  # checks it first: transformers would block on a pipe
    # from the folder, not from the bare file: built from a bare file some versions split "[SEP]" into three
    kind = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else BertTokenizerFast
    try:
        return kind.from_pretrained(folder).backend_tokenizer
    except Exception as error:  # the tokenizers library raises bare Exception for a damaged file
        raise CheckpointError(f"tokenizer files in {folder} cannot be read: {quote(error)}", WRITE_AGAIN) from error


def _encodable(text: str) -> str:
    r"""The text with the replacement character, which BERT's cleaning drops, for halves of surrogate pairs.

    JSON may hold such halves (`"\ud83d"`), UTF-8 may not.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
