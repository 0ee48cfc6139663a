"""Where the images of annotations are: tar shards by key or URL, then folders and zips by path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from albef.errors import DataError
from pipeline.data.annotations.shard_images import ShardImages, names_shards
from pipeline.data.corpus.locations import SampleRef
from pipeline.data.corpus.reader import BadSample, ShardReader
from samples.image_roots import ImageRoots, NotRead, RootError, open_image_roots
from samples.quote import quote


@dataclass(frozen=True, eq=False)
class AnnotationImages:
    """Images by name. Of a name that is in both, the one in the shards is taken."""

    names: tuple[str, ...]
    """The roots as the recipe names them."""
    files: ImageRoots
    """The folders and zips among them."""
    shards: ShardImages | None
    """The samples of all shards; None where no root has shards."""

    def has(self, name: str) -> bool:
        """Whether there is an image of that name, readable or not."""
        return self.in_shards(name) is not None or self.files.has(name)

    def in_shards(self, name: str) -> SampleRef | None:
        """Where an image lies in the shards; None where it does not."""
        return None if self.shards is None else self.shards.find(name)

    def read(self, name: str, max_bytes: int) -> bytes:
        """The bytes of an image; may be called from threads. Raises: NotRead; RootError for a zip that was replaced."""
        sample = self.in_shards(name)
        if sample is None:
            return self.files.read(name, max_bytes)
        try:
            return ShardReader(max_open=1).read(sample).jpg
        except BadSample as bad:
            raise NotRead(str(bad)) from bad

    def place(self) -> str:
        """Where names are looked up, for messages."""
        return f"{'below' if self.shards is None else 'in'} {' or '.join(quote(name) for name in self.names)}"


def open_images(roots: Sequence[str], *, key: str) -> AnnotationImages:
    """The folders, zips and shards that `key` of a recipe, or a flag, names. Raises: DataError."""
    if not roots:
        raise DataError(
            f"{key} is empty", "name the folder, zip or manifest of shards that has the images of the annotations"
        )
    shards = [root for root in roots if names_shards(root)]
    files = [Path(root) for root in roots if root not in shards]
    try:
        opened = open_image_roots(files)
    except RootError as error:
        raise DataError(
            str(error), f"{key} names folders, zips, and folders of shards that have a manifest.parquet"
        ) from error
    return AnnotationImages(tuple(roots), opened, ShardImages.of_roots(shards) if shards else None)
