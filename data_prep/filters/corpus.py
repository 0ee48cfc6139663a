"""The folder of a filtered corpus, the record of its inputs, and the lock that lets one process write to it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from base.errors import UsageError
from data_prep.accounts.datasheet import DATASHEET_NAME, write_datasheet
from data_prep.errors import FolderError, InputError
from data_prep.filters.evaluation_sets import EvaluationSet
from data_prep.filters.near_duplicates import DISTINCT
from data_prep.filters.settings import RULES, FilterSettings
from data_prep.output.job import OUTPUTS, locked, write_json
from data_prep.output.ownership import check_new, check_work
from data_prep.output.storage import file_sha256
from data_prep.shards.manifest import MANIFEST_NAME, stream_manifest

CORPUS_VERSION = 1
HASHES, COMMON_CAPTIONS, EVALUATION = "looks.npy", "common_captions.npy", "evaluation.npy"
"""Files in the corpus' work folder while it is filtered."""


@dataclass(frozen=True)
class Corpus:
    """Layout of `filter --out CORPUS`."""

    root: Path

    @property
    def record(self) -> Path:
        """The inputs and the rules; once the corpus is finished, also notes on the outcome."""
        return self.root / "corpus.json"

    @property
    def manifest(self) -> Path:
        return self.root / MANIFEST_NAME

    @property
    def removed(self) -> Path:
        """SHARD.jsonl: every sample of that shard that a rule dropped."""
        return self.root / "removed"

    def lines_of(self, tar: str) -> Path:
        """The file in `removed` for a shard; there is none when nothing of the shard was dropped."""
        return self.removed / f"{Path(tar).stem}.jsonl"

    def dropped(self, tar: str) -> list[dict[str, Any]]:
        """The lines of `lines_of`: key, rule and detail of every dropped sample of a shard."""
        lines = self.lines_of(tar)
        # split at line feeds only: a caption may hold other characters that end a line
        text = lines.read_text(encoding="utf-8").split("\n") if lines.exists() else []
        return [json.loads(line) for line in text if line]

    @property
    def features(self) -> Path:
        """Features of the samples and evaluation images. They are kept, so that other settings need no tar again."""
        return self.root / "features"

    @property
    def work(self) -> Path:
        return self.root / ".work"

    def relative(self, path: Path) -> str:
        """A path relative to the corpus, so that both can be moved together. Links are resolved, as `..` does."""
        return os.path.relpath(os.path.realpath(path), os.path.realpath(self.root))


@dataclass(frozen=True)
class Shard:
    """A row of a source's manifest, without its samples."""

    folder: Path
    path: str
    source: str
    num_samples: int
    sha256: str
    keys_sha256: str | None

    @property
    def tar(self) -> Path:
        return self.folder / self.path


@dataclass(frozen=True)
class Source:
    """A folder to filter, as it is now."""

    folder: Path
    manifest_sha256: str
    shards: tuple[Shard, ...]

    @property
    def manifest(self) -> Path:
        return self.folder / MANIFEST_NAME

    @property
    def names(self) -> set[str]:
        return {shard.source for shard in self.shards}

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)


def read_sources(folders: Sequence[Path]) -> list[Source]:
    """Raises: InputError for a folder without a manifest; UsageError when two hold samples of the same source."""
    sources: list[Source] = []
    for folder in folders:
        manifest = folder / MANIFEST_NAME
        if not manifest.is_file():
            raise InputError(
                f"no {MANIFEST_NAME} in {folder}", f"`python -m data_prep verify {folder}` writes it when all is whole"
            )
        columns = ("path", "source", "num_samples", "sha256", "keys_sha256")
        shards = tuple(Shard(folder=folder, **row) for row in stream_manifest(manifest, columns))
        source = Source(folder, file_sha256(manifest), shards)
        for other in sources:
            if shared := source.names & other.names:
                raise UsageError(
                    f"{other.folder} and {folder} both hold samples of {', '.join(sorted(shared))}: keys could meet",
                    "give each folder once, and sources different names (--source of download and pack)",
                )
        sources.append(source)
    return sources


def describe(
    corpus: Corpus,
    sources: Sequence[Source],
    settings: FilterSettings,
    sets: Sequence[EvaluationSet],
    digests: Mapping[str, str],
) -> dict[str, Any]:
    """The content of `corpus.json` when a filter starts. It has no times: the same filter leaves the same bytes."""
    return {
        "version": CORPUS_VERSION,
        "inputs": [
            {
                "folder": corpus.relative(source.folder),
                "manifest_sha256": source.manifest_sha256,
                "sources": sorted(source.names),
                "shards": len(source.shards),
                "samples": source.num_samples,
            }
            for source in sources
        ],
        "rules": {**asdict(settings), "off": [rule for rule in RULES if not settings.on(rule)]},
        "evaluation_sets": [
            {"name": one.name, "path": corpus.relative(one.path), "sha256": digests[one.name]} for one in sets
        ],
    }


def read_record(corpus: Corpus) -> dict[str, Any] | None:
    """`corpus.json`; None where there is none. Raises: FolderError when it is not readable."""
    if not corpus.record.exists():
        return None
    try:
        record = json.loads(corpus.record.read_bytes())
        if record["version"] != CORPUS_VERSION or not isinstance(record["inputs"], list):
            raise ValueError("another version")
    except (ValueError, KeyError, TypeError) as error:
        raise FolderError(f"{corpus.record} is not readable: {error}", "restore it, or use another --out") from error
    return dict(record)


def begin(corpus: Corpus, wanted: dict[str, Any]) -> None:
    """Record the inputs and rules. An unfinished corpus may start again with others, a finished one may not.

    Raises: FolderError when the folder holds a finished corpus of other data or rules, or other files.
    """
    record = read_record(corpus)
    if record is None:
        check_new(corpus.root, corpus.record, (*OUTPUTS, "job.json", corpus.removed.name))
    if record is not None and corpus.manifest.exists():
        for part, what in (("inputs", "other data"), ("rules", "other rules"), ("evaluation_sets", "other sets")):
            if record[part] != wanted[part]:
                raise FolderError(
                    f"{corpus.root} was filtered from {what}: {_difference(record[part], wanted[part])}",
                    f"use another --out; with --features {corpus.features} no image is read again",
                )
    write_json(corpus.record, wanted)


def finish(corpus: Corpus, sources: Sequence[Source], notes: Sequence[str]) -> None:
    """Record the notes, and write the datasheet with the counts."""
    write_json(corpus.record, {**json.loads(corpus.record.read_bytes()), "notes": list(notes)})
    write_datasheet(corpus.root, left=_left(sources))


def _left(sources: Sequence[Source]) -> dict[str, int]:
    """Rows of each source that no shard accounts for, from the datasheets of the folders."""
    left: dict[str, int] = {}
    for source in sources:
        with contextlib.suppress(FileNotFoundError):  # a manifest from elsewhere: it accounts for what it lists
            datasheet = json.loads((source.folder / DATASHEET_NAME).read_bytes())
            left |= {name: account["left"] for name, account in datasheet["sources"].items()}
    return left


def changed_inputs(corpus: Corpus, record: dict[str, Any]) -> list[str]:
    """A sentence for each input that has changed since it was filtered. The corpus itself may still be whole."""
    notes = []
    for source in record["inputs"]:
        manifest = corpus.root / source["folder"] / MANIFEST_NAME
        if not manifest.is_file():
            notes.append(f"{manifest} is gone: it was filtered when its sha256 was {source['manifest_sha256'][:12]}")
        elif (now := file_sha256(manifest)) != source["manifest_sha256"]:
            notes.append(
                f"{manifest} has changed since it was filtered (sha256 {source['manifest_sha256'][:12]} then, "
                f"{now[:12]} now): new samples are not in this corpus; filter again into another --out"
            )
    return notes


@contextlib.contextmanager
def exclusive(corpus: Corpus) -> Iterator[None]:
    """Lock the folder for this process; the lock ends with the process, however that ends."""
    if not corpus.record.exists():
        check_work(corpus.work, (HASHES, DISTINCT, COMMON_CAPTIONS, EVALUATION))
    try:
        corpus.work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"cannot create {corpus.root}: {error.strerror}", "choose another --out") from error
    with locked(corpus.work / "lock", corpus.root):
        yield


def _difference(before: Any, now: Any) -> str:
    if isinstance(before, dict):
        names = [name for name in now if before.get(name) != now[name]]
        return ", ".join(f"{name} {before.get(name)} then, {now[name]} now" for name in names)
    if len(before) != len(now):
        return f"{len(before)} then, {len(now)} now"
    return _difference(*next((a, b) for a, b in zip(before, now, strict=True) if a != b))
