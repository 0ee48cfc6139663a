"""Reads the images of an annotation; every way in which that can fail has a name."""

# Imported in every worker process: no pyarrow.

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pipeline.data.corpus.reader import BadSample
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
    """Reads images below roots, which are opened by the process that reads. Picklable."""

    def __init__(self, images: ImageRoots) -> None:
        self._images = images

    def read(self, ref: EntryRef) -> AnnotatedSample:
        """The entry at `ref` with its images.

        Raises: BadSample with one of the reasons `missing_file`, `outside_images`, `file_too_large`, `unreadable_file`,
            or `images_replaced` for a zip that is another one than at the start.
        """
        names, row = ref.fields()
        try:
            images = [self._images.read(name, MAX_IMAGE_BYTES) for name in names]
        except NotRead as error:
            reason, _, detail = str(error).partition(": ")
            raise BadSample(reason, f"{ref.name}: {detail}") from error
        except RootError as error:
            raise BadSample("images_replaced", f"{ref.name}: {error}") from error
        return AnnotatedSample(name=ref.name, row=row, images=images)
