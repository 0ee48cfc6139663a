"""Reads the images of an annotation; every way in which that can fail has a name."""

# Imported in every worker process: no pyarrow.

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pipeline.data.corpus.locations import SampleRef
from pipeline.data.corpus.reader import BadSample, ShardReader
from samples.image_roots import ImageRoots, NotRead, RootError

MAX_IMAGE_BYTES = 1 << 30
"""Largest size of an image file; a larger one is a bad sample."""


@dataclass(frozen=True, slots=True)
class EntryRef:
    """One entry, as a worker gets it; a `pipeline.data.corpus.protocol.SampleLocation`."""

    path: str
    """Its annotation file."""
    name: str
    """Its name, for logs and as the seed of its random draws."""
    record: str
    """Its images' names and its row, as JSON."""
    samples: tuple[SampleRef | None, ...] = ()
    """For each image where it lies in shards, None where it is below a root; empty where no image lies in shards."""

    def fields(self) -> tuple[list[str], dict[str, Any]]:
        """Names of its images, and its row."""
        images, row = json.loads(self.record)
        return images, row


@dataclass(frozen=True, slots=True)
class AnnotatedSample:
    """An entry and its images as stored, still encoded."""

    name: str
    row: dict[str, Any]
    """What `Format.check` kept of the entry."""
    images: list[bytes]


class AnnotationReader:
    """Reads images in shards and below roots, which are opened by the process that reads. Picklable.

    Not shared between threads where images lie in shards.
    """

    def __init__(self, files: ImageRoots) -> None:
        self._files = files
        self._shards = ShardReader()

    def read(self, ref: EntryRef) -> AnnotatedSample:
        """The entry at `ref` with its images.

        Raises: BadSample with one of the reasons `missing_file`, `outside_images`, `file_too_large`, `unreadable_file`,
            `images_replaced` for a zip that is another one than at the start, or one of `ShardReader.read`.
        """
        names, row = ref.fields()
        try:
            images = [
                self._files.read(name, MAX_IMAGE_BYTES) if sample is None else self._shards.read(sample).jpg
                for name, sample in zip(names, ref.samples or (None,) * len(names), strict=True)
            ]
        except NotRead as error:
            reason, _, detail = str(error).partition(": ")
            raise BadSample(reason, f"{ref.name}: {detail}") from error
        except RootError as error:
            raise BadSample("images_replaced", f"{ref.name}: {error}") from error
        return AnnotatedSample(name=ref.name, row=row, images=images)
