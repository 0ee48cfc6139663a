"""The image-text pairs of an evaluation, in a fixed order: from an annotation file or from shards, and as tensors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from albef.config import AlbefConfig
from albef.errors import DataError
from albef.inputs.preprocess import preprocess_image
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.data.annotations.images import AnnotationImages
from pipeline.data.corpus.locations import SampleRef
from pipeline.data.corpus.manifest import Manifest
from pipeline.data.corpus.reader import BadSample, ShardReader
from pipeline.data.decode import load_pixels, open_image
from pipeline.tasks.retrieval.evaluation import RetrievalSet
from samples.captions import clean_caption
from samples.image_roots import ImageRoots, NotRead, RootError, open_image_roots
from samples.json_text import parse_json
from samples.plain_file import read_plain
from samples.quote import quote
from samples.record import usable_captions
from samples.text_files import HEAD_BYTES, conversion_hint, wide_encoding

log = logging.getLogger(__name__)

_READING = Lock()
"""A ShardReader serves one thread at a time; decoding, which takes longer, runs without this lock."""

MAX_IMAGE_BYTES = 1 << 30
"""Largest size of an image; a larger file is an error."""

MAX_ANNOTATION_BYTES = 1 << 30
"""Largest size of an annotation file; a larger one is an error."""

Captions = Literal["all", "first"]


@dataclass(frozen=True, kw_only=True)
class EvaluationPairs:
    """Images, each with one or more texts. Images are decoded on demand, so ranks may divide them by index."""

    names: list[str]
    """A name per image: its path in the annotation file, or its key."""
    texts: list[str]
    """Cleaned captions, image by image."""
    text_to_image: list[int]
    """For each text the index of its image."""
    image_to_texts: list[list[int]]
    """For each image the indices of its texts; never empty."""
    load: Callable[[int], Image.Image]
    """Opens image i; use `image`."""

    @property
    def num_images(self) -> int:
        return len(self.names)

    @property
    def num_texts(self) -> int:
        return len(self.texts)

    def image(self, index: int) -> Image.Image:
        """Image `index` as stored, in RGB; may be called from threads. Raises: DataError when it cannot be read."""
        return self.load(index)

    @classmethod
    def from_annotations(
        cls,
        file: str | Path,
        root: str | Path,
        captions: Captions = "all",
        *,
        max_words: int = 30,
        limit: int | None = None,
    ) -> EvaluationPairs:
        """The official annotation lists: `[{"image": path below root, "caption": text or list of texts}, ...]`.

        Rows with the same image are merged into one image with all their captions (the official training lists have a
        row per caption), so that no correct text counts as wrong.

        Args:
            file: the JSON file.
            root: the folder, or the packed zip, that `image` is relative to.
            captions: every caption of an image, or only its first.
            max_words: captions are cut to this many words, as in the original.
            limit: only the first N images.

        Raises: DataError when the file or an image is missing, or an entry is not as above.
        """
        file = Path(file)
        try:
            images = open_image_roots([Path(root)])
        except RootError as error:
            raise DataError(str(error), "--images ROOT is the folder, or zip, that paths start from") from error
        captions_of: dict[str, list[str]] = {}
        for name, texts in _read_annotations(file):
            captions_of.setdefault(name, []).extend(texts)
        names = list(captions_of)[:limit]
        missing = [name for name in names if not images.has(name)]
        if missing:
            raise DataError(
                f"{file}: {len(missing)} of {len(names)} images are not below {root}, {quote(missing[0])} first",
                "give the folder that the paths in the file start from (--images ROOT)",
            )
        return cls.from_captions(
            {name: captions_of[name] for name in names}, images, captions, max_words=max_words, source=str(file)
        )

    @classmethod
    def from_captions(
        cls,
        captions_of: Mapping[str, Sequence[str]],
        images: ImageRoots | AnnotationImages,
        captions: Captions = "all",
        *,
        max_words: int = 30,
        source: str,
    ) -> EvaluationPairs:
        """Images by name with their captions, in this order.

        Args:
            images: has every image.
            source: where the captions are from, for messages.

        Raises: DataError when no image has a caption.
        """
        kept = _Collected(source, captions, max_words)
        names = [name for name, texts in captions_of.items() if kept.add(name, texts)]
        return kept.pairs(partial(_open_file, images, names))

    @classmethod
    def from_manifest(
        cls, manifest: Manifest, captions: Captions = "all", *, max_words: int = 30, limit: int | None = None
    ) -> EvaluationPairs:
        """Every sample of a manifest, in manifest order. Arguments as above.

        Raises: DataError when a sample cannot be read: an evaluation on part of its data would give another number.
        """
        reader = ShardReader()
        kept = _Collected(", ".join(manifest.paths), captions, max_words)
        refs: list[SampleRef] = []
        for index in range(min(manifest.num_samples, limit if limit is not None else manifest.num_samples)):
            ref = manifest.sample(index)
            try:
                texts = reader.read(ref).captions
            except BadSample as bad:
                raise _unreadable(ref.name, bad) from bad
            if kept.add(ref.name, texts):
                refs.append(ref)
        return kept.pairs(partial(_open_sample, reader, refs))


def retrieval_set(
    pairs: EvaluationPairs, model: AlbefConfig, tokenizer: AlbefTokenizer, *, max_text_tokens: int = 30
) -> RetrievalSet:
    """Images squash-resized to the model's size; texts cut to `max_text_tokens` ([CLS] included) or the model's limit.

    Images are decoded on demand; texts are tokenized here, a million of them in a minute.
    """
    input_ids, attention_mask = tokenizer(pairs.texts, max_length=min(max_text_tokens, model.max_text_positions))

    def load_image(index: int) -> Tensor:
        return preprocess_image(pairs.image(index), model.image_size)

    return RetrievalSet(
        num_images=pairs.num_images,
        load_image=load_image,
        input_ids=input_ids,
        attention_mask=attention_mask,
        text_to_image=torch.tensor(pairs.text_to_image),
    )


class _Collected:
    """Collects images and their cleaned texts, leaving out images without text."""

    def __init__(self, what: str, captions: Captions, max_words: int) -> None:
        if captions not in ("all", "first"):
            raise DataError(f"captions is {captions!r}", "use all or first")
        self.what, self.captions, self.max_words = what, captions, max_words
        self.names: list[str] = []
        self.texts: list[str] = []
        self.text_to_image: list[int] = []
        self.image_to_texts: list[list[int]] = []
        self.num_without_text = 0

    def add(self, name: str, captions: Iterable[str]) -> bool:
        """Add an image; False when none of its captions is usable."""
        texts = [clean_caption(caption, max_words=self.max_words) for caption in usable_captions(captions)]
        if not texts:
            self.num_without_text += 1
            return False
        if self.captions == "first":
            texts = texts[:1]
        image = len(self.names)
        self.names.append(name)
        self.image_to_texts.append(list(range(len(self.texts), len(self.texts) + len(texts))))
        self.text_to_image += [image] * len(texts)
        self.texts += texts
        return True

    def pairs(self, load: Callable[[int], Image.Image]) -> EvaluationPairs:
        if not self.names:
            raise DataError(f"{self.what} holds no image with a caption", "evaluation needs at least one pair")
        if self.num_without_text:
            log.warning("%s: %d images have no caption left after cleaning: left out", self.what, self.num_without_text)
        return EvaluationPairs(
            names=self.names,
            texts=self.texts,
            text_to_image=self.text_to_image,
            image_to_texts=self.image_to_texts,
            load=load,
        )


def _read_annotations(file: Path) -> Iterable[tuple[str, list[str]]]:
    layout = 'a list of {"image": path, "caption": text or list of texts} is expected'
    try:
        data = read_plain(file, MAX_ANNOTATION_BYTES)
    except OSError as error:
        raise DataError(f"annotation file {file}: {error.strerror}", "check the path (--annotations)") from error
    if (encoding := wide_encoding(data[:HEAD_BYTES])) is not None:
        raise DataError(f"annotation file {file} is {encoding}, not UTF-8", conversion_hint(encoding))
    try:
        entries = parse_json(data)
    except ValueError as error:
        raise DataError(f"annotation file {file} is not JSON: {quote(error)}", layout) from error
    if not isinstance(entries, list):
        raise DataError(f"annotation file {file} holds a {type(entries).__name__}, not a list", layout)
    for number, entry in enumerate(entries):
        image = entry.get("image") if isinstance(entry, dict) else None
        caption = entry.get("caption") if isinstance(entry, dict) else None
        texts = [caption] if isinstance(caption, str) else caption
        if not isinstance(image, str) or not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
            raise DataError(f"annotation file {file}, entry {number} has no image path with captions", layout)
        yield image, texts


def _open_file(images: ImageRoots | AnnotationImages, names: list[str], index: int) -> Image.Image:
    try:
        data = images.read(names[index], MAX_IMAGE_BYTES)
    except (NotRead, RootError) as error:
        raise _unreadable(quote(names[index]), error) from error
    return _decode(data, quote(names[index]))


def _open_sample(reader: ShardReader, refs: list[SampleRef], index: int) -> Image.Image:
    try:
        with _READING:
            sample = reader.read(refs[index])
    except BadSample as bad:
        raise _unreadable(refs[index].name, bad) from bad
    return _decode(sample.jpg, sample.name)


def _decode(data: bytes, name: str) -> Image.Image:
    try:
        return load_pixels(open_image(data, name), name)
    except BadSample as bad:
        raise _unreadable(name, bad) from bad


def _unreadable(name: str, bad: Exception) -> DataError:
    return DataError(
        f"evaluation sample {quote(name)} cannot be used: {quote(bad, 200)}",
        "an evaluation needs all of its data: fix the sample, or remove it from the annotations or shards",
    )
