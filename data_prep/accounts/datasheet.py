"""`datasheet.json`: beside a manifest, what became of every listed row, and which tools and lists made the shards.

Built from the manifest and `job.json`, and checked: kept + failed + filtered + left must equal the listed rows, for
each source and in all, or no datasheet is written.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_prep.errors import AccountingError, InputError
from data_prep.output.job import Folder, Job, read_job, write_json
from data_prep.output.storage import file_sha256
from data_prep.shards.manifest import MANIFEST_NAME, SCHEMA, stream_manifest
from data_prep.sources.catalogue import SOURCES

DATASHEET_NAME = "datasheet.json"
DATASHEET_VERSION = 1
PER_SAMPLE = {"keys", "offsets", "lengths"}
HOW_TO_FIX = "run `data_prep verify`, which names the shard that is wrong; then make that shard again"


@dataclass
class SourceAccount:
    """Sums over the shards of one source that a manifest names."""

    listed: int = 0
    """Rows of the source's list."""
    kept: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    filtered: Counter[str] = field(default_factory=Counter)
    left: int = 0
    """Rows of shards that the manifest does not name."""
    shards: int = 0
    bytes: int = 0
    """Size of the tars."""
    accounted: int = 0
    """Rows that the named shards account for; a row that was retried counts once."""
    first: str = ""
    """When the oldest shard was made, ISO 8601, UTC."""
    last: str = ""
    lists: set[tuple[str, str]] = field(default_factory=set)
    """(names, sha256) of the lists."""
    names: set[str] = field(default_factory=set)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row of the manifest. Raises: AccountingError when its numbers do not add up."""
        failed, filtered = _counts(row, "failures", "reason"), _counts(row, "filtered", "rule")
        superseded = _counts(row, "supersedes", "reason")
        here = row["num_samples"] + failed.total() + filtered.total()
        if here != row["listed"]:
            raise AccountingError(
                f"{row['path']}: {row['num_samples']} kept + {failed.total()} failed + {filtered.total()} filtered are "
                f"not {row['listed']} listed",
                HOW_TO_FIX,
            )
        if superseded and superseded.total() != row["listed"]:
            raise AccountingError(
                f"{row['path']}: replaces {superseded.total()} failures by {row['listed']} rows", HOW_TO_FIX
            )
        self.kept += row["num_samples"]
        self.failed.update(failed)
        self.failed.subtract(superseded)
        self.filtered.update(filtered)
        self.accounted += row["listed"] - superseded.total()
        self.shards += 1
        self.bytes += row["bytes"]
        self.first = min(filter(None, (self.first, row["created"])))
        self.last = max(self.last, row["created"])
        arguments = json.loads(row["arguments"])
        names = arguments.get("list", "")
        self.lists.add((names if isinstance(names, str) else ", ".join(names), arguments.get("inputs_sha256", "")))
        self.names.add(Path(row["path"]).stem)

    def drop_retried(self) -> None:
        """Drop the retried failures of a shard that the manifest does not name: the retry accounts for these rows."""
        for reason, count in self.failed.items():
            if count < 0 and self.left + count >= 0:
                self.left += count
                self.failed[reason] = 0

    def check(self, source: str) -> None:
        """Raises: AccountingError, with the numbers, when a row of the source is counted twice or nowhere."""
        below = {reason: count for reason, count in self.failed.items() if count < 0}
        if below:
            reason, count = next(iter(below.items()))
            raise AccountingError(
                f"source {source}: retries replace {-count} failures more than there were of {reason}", HOW_TO_FIX
            )
        total = self.kept + self.failed.total() + self.filtered.total() + self.left
        if total != self.listed:
            raise AccountingError(
                f"source {source}: {self.kept} kept + {self.failed.total()} failed + {self.filtered.total()} filtered "
                f"+ {self.left} left are {total}, but {self.listed} rows were listed",
                HOW_TO_FIX,
            )

    def as_json(self) -> dict[str, Any]:
        return {
            **_sums(self),
            "lists": [{"names": names, "sha256": sha256} for names, sha256 in sorted(self.lists)],
            "made": {"first_shard": self.first, "last_shard": self.last},
        }


def write_datasheet(folder: Path, *, left: Mapping[str, int] | None = None) -> Path:
    """Write `folder/datasheet.json` from the manifest there; to be called after every publication of a manifest.

    Memory: one shard's row of the manifest, without its keys.

    Args:
        left: rows of each source that no shard accounts for, for a folder without a `job.json`. With one, they are
            counted here: the rows of those shards of the job that the manifest does not name.
    Raises: AccountingError when kept + failed + filtered + left are not the listed rows, of a source or of a shard;
        InputError when there is no manifest.
    """
    manifest = folder / MANIFEST_NAME
    sources: dict[str, SourceAccount] = {}
    tools: Counter[str] = Counter()
    arguments: Counter[str] = Counter()
    digest = hashlib.sha256()
    for row in shard_rows(manifest):
        sources.setdefault(row["source"], SourceAccount()).add(row)
        tools[row["tools"]] += 1
        arguments[row["arguments"]] += 1
        digest.update(f"{row['sha256']} {row.get('keys_sha256') or ''}".rstrip().encode() + b"\n")
    _set_expected(sources, read_job(Folder(folder)), left or {})
    for source, account in sorted(sources.items()):
        account.check(source)
    together = _together(sources)
    together.check("all together")
    write_json(
        folder / DATASHEET_NAME,
        {
            "version": DATASHEET_VERSION,
            **_sums(together),
            "complete": together.left == 0,
            "sources": {
                source: {**account.as_json(), **_licence(source)} for source, account in sorted(sources.items())
            },
            "manifest_sha256": file_sha256(manifest),
            "shards_sha256": digest.hexdigest(),
            "tools": _uses(tools),
            "arguments": _uses(arguments),
            "made": {"first_shard": together.first, "last_shard": together.last},
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    return folder / DATASHEET_NAME


def shard_rows(manifest: Path) -> Iterator[dict[str, Any]]:
    """Rows of a manifest one by one, without the columns about single samples.

    Raises: InputError when there is no manifest.
    """
    if not manifest.exists():
        raise InputError(f"no {MANIFEST_NAME} in {manifest.parent}", "`data_prep verify DIR` writes it")
    yield from stream_manifest(manifest, [name for name in SCHEMA.names if name not in PER_SAMPLE])


def _set_expected(sources: dict[str, SourceAccount], job: Job | None, left: Mapping[str, int]) -> None:
    """Set how many rows each account must add up to: from the job, where there is one, not from the checked shards."""
    for source, account in sources.items():
        account.left = left.get(source, 0)
        account.listed = account.accounted + account.left
    if job is None:
        return
    named = {name for account in sources.values() for name in account.names}
    missing = (index for index in range(job.num_shards) if job.shard_name(index) not in named)
    account = sources.setdefault(job.source, SourceAccount())
    account.left = sum(map(job.rows_in_shard, missing))
    account.listed = job.num_rows
    account.drop_retried()


def _together(sources: Mapping[str, SourceAccount]) -> SourceAccount:
    together = SourceAccount()
    for account in sources.values():
        together.failed.update(account.failed)
        together.filtered.update(account.filtered)
    for name in ("listed", "kept", "left", "shards", "bytes"):
        setattr(together, name, sum(getattr(account, name) for account in sources.values()))
    together.first = min((account.first for account in sources.values() if account.first), default="")
    together.last = max((account.last for account in sources.values()), default="")
    return together


def _sums(account: SourceAccount) -> dict[str, Any]:
    return {
        "listed": account.listed,
        "kept": account.kept,
        "failed": {reason: count for reason, count in sorted(account.failed.items()) if count},
        "filtered": dict(sorted(account.filtered.items())),
        "left": account.left,
        "shards": account.shards,
        "bytes": account.bytes,
    }


def _licence(source: str) -> dict[str, str]:
    """The licence of a source that the catalogue knows; images may have other licences, in their JSON."""
    known = SOURCES.get(source)
    return {} if known is None else {"licence": known.licence, "licence_from": known.licence_from}


def _uses(texts: Counter[str]) -> list[dict[str, Any]]:
    """Each distinct JSON text of the manifest's column, and the number of shards that have it."""
    return [{"shards": count, "value": json.loads(text)} for text, count in sorted(texts.items())]


def _counts(row: Mapping[str, Any], column: str, name: str) -> Counter[str]:
    """A column of (name, count) structs; empty where the manifest has no such column."""
    counts: Counter[str] = Counter()
    for entry in row.get(column) or ():
        counts[entry[name]] += entry["count"]
    return counts
