"""What a demo run is, where its files lie, and the record from which the same command resumes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from albef.errors import ConfigError
from base import atomic_file


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What was asked for; a run folder starts with one of these and resumes with the same."""

    steps: int | None = None
    """Optimizer steps; None takes the recipe's."""
    seed: int = 0
    """Seed of weights, order, masks and all other draws."""
    pictures: int | None = None
    """Use this number of training pictures; None takes all."""


@dataclass(frozen=True)
class Layout:
    """The files of a demo run."""

    root: Path

    @property
    def record(self) -> Path:
        """What was asked for, and the stages that are done."""
        return self.root / "demo.json"

    @property
    def export(self) -> Path:
        return self.root / "export"

    @property
    def untrained(self) -> Path:
        """A model of the same shape with fresh weights, for the row `before training`."""
        return self.root / "untrained"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    def url_list(self, split: str) -> Path:
        return self.root / "data" / "lists" / f"{split}.jsonl"

    def shards(self, split: str) -> Path:
        return self.root / "data" / split

    def manifest(self, split: str) -> Path:
        return self.shards(split) / "manifest.parquet"

    def retrieval(self, model: str) -> Path:
        return self.root / ("retrieval.json" if model == "trained" else f"retrieval_{model}.json")


@dataclass(kw_only=True)
class Record:
    """demo.json: settings, the server's port, and for each finished stage its command and duration."""

    settings: Settings
    port: int = 0
    """The port that the URL lists name; 0 before there are lists."""
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it by an atomic rename: the file is whole, or as it was before."""
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_file.write_text(path, json.dumps(asdict(self), indent=1) + "\n")


def open_record(path: Path, wanted: Settings) -> Record:
    """The record of a run folder, or a new one.

    Raises: ConfigError when the folder was started with other settings, or its record cannot be read.
    """
    if not path.exists():
        return Record(settings=wanted)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        record = Record(settings=Settings(**content["settings"]), port=content["port"], stages=content["stages"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}", f"remove {path.parent} to start again from the beginning"
        ) from None
    if record.settings != wanted:
        differs = "; ".join(
            f"--{name} was {getattr(record.settings, name)}, is now {value}"
            for name, value in asdict(wanted).items()
            if getattr(record.settings, name) != value
        )
        raise ConfigError(
            f"{path.parent} was started with other settings: {differs}",
            "give the same ones to resume, or another --run-dir",
        )
    return record
