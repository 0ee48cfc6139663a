"""What the loader, the order of samples and a run's record need of a corpus, wherever its samples lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from pipeline.data.corpus.splits import Split


class SampleLocation(Protocol):
    """Where one sample lies. Small and picklable: workers get these instead of the corpus."""

    @property
    def path(self) -> str:
        """The file that holds it, for messages."""

    @property
    def name(self) -> str:
        """The name that logs record and that seeds the sample's random draws; unique in the corpus."""


class SampleReader(Protocol):
    """Reads samples. Picklable, without open files: every data worker gets one, and opens what it needs."""

    def read(self, ref: Any) -> Any:
        """What `Batcher.example` takes, given one of the corpus's locations.

        Raises: BadSample when the sample cannot be used; another one then replaces it.
        """


class Corpus(Protocol):
    """Samples in a fixed order: index i counts through all shards. A shard is what is read together, such as a tar."""

    @property
    def paths(self) -> Sequence[str]:
        """The files that list the samples, as paths or URLs."""

    @property
    def sources(self) -> Sequence[str]:
        """(K,) what the recipe names, each a source of samples."""

    @property
    def starts(self) -> np.ndarray:
        """(S+1,) int64: shard s holds the samples starts[s] .. starts[s+1]-1."""

    @property
    def source_shards(self) -> np.ndarray:
        """(K+1,) int64: source k holds the shards source_shards[k] .. source_shards[k+1]-1."""

    @property
    def num_samples(self) -> int:
        """N, over all shards."""

    @property
    def shard_sizes(self) -> np.ndarray:
        """(S,) int64 samples per shard."""

    def fingerprint(self) -> str:
        """Sixteen hex digits that stay the same while samples, their order and their names do."""

    def splits(self) -> Sequence[Split]:
        """(K,) what each source is recognised by when a model is evaluated. Raises: DataError."""

    def locate(self, indices: np.ndarray) -> Sequence[SampleLocation]:
        """Where the samples at `indices` ((n,) int64) lie. Raises: DataError when the corpus contradicts itself."""

    def reader(self) -> SampleReader:
        """Reads samples at the locations that `locate` gives."""

    def check(self) -> None:
        """Check what is otherwise checked when it is read, in seconds or minutes. Raises: DataError."""

    def reading_cost(self) -> str:
        """A line about what reading costs where it is more than usual; else empty."""
