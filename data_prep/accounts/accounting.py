"""What became of every listed row: `report.json`, the summary printed at the end, and `data_prep status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from data_prep.output.job import Folder, Job, read_job, retry_rounds, write_json
from data_prep.output.parts import WHOLE, Part
from data_prep.output.storage import is_remote, sizes
from data_prep.shards.writer import ShardRecord, read_record, record_path
from samples.quote import quote

RECORDS_AT_ONCE = 16


@dataclass
class Account:
    """Sums over the finished shards of a job, or of a part of it."""

    listed: int
    """Rows of the list, whether or not their shard is finished."""
    num_shards: int
    """Shards of the job or part, finished or not."""
    finished_shards: int = 0
    accounted: int = 0
    """Rows of finished shards: kept and failed."""
    kept: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    bytes: int = 0

    @property
    def complete(self) -> bool:
        return self.accounted == self.listed

    def add(self, record: ShardRecord) -> None:
        self.finished_shards += 1
        self.accounted += record.listed
        self.kept += record.kept
        self.failed.update(record.failed)
        self.bytes += record.bytes

    def add_round(self, records: Iterable[ShardRecord], num_shards: int) -> None:
        """Add a retry round: its rows were accounted for already, as the failures that it replaces."""
        self.num_shards += num_shards
        for record in records:
            self.add(record)
            self.accounted -= sum(record.supersedes.values())
            self.failed.subtract(record.supersedes)
        self.failed = Counter({reason: count for reason, count in self.failed.items() if count})


def finished_shards(folder: Folder, job: Job) -> dict[int, ShardRecord]:
    """Shards of the folder's part that have a record and a tar of the recorded size; no other counts as finished."""
    there = sizes(folder.shards)
    names = {index: job.shard_name(index) for index in folder.part.shards(job.num_shards)}
    whole = [index for index, name in names.items() if f"{name}.json" in there and f"{name}.tar" in there]
    # Many at a time in a store, where each read is slow.
    with ThreadPoolExecutor(RECORDS_AT_ONCE if is_remote(folder.root) else 1) as pool:
        records = pool.map(lambda index: _record(record_path(folder, names[index])), whole)
        return {
            index: record
            for index, record in zip(whole, records, strict=True)
            if record is not None
            and record.bytes == there[f"{names[index]}.tar"]
            and record.listed == job.rows_in_shard(index)
        }


def _record(path: Path) -> ShardRecord | None:
    try:
        return read_record(path)
    except (OSError, ValueError):
        return None


def add_up(job: Job, records: Iterable[ShardRecord], part: Part = WHOLE) -> Account:
    shards = part.shards(job.num_shards)
    account = Account(listed=sum(map(job.rows_in_shard, shards)), num_shards=len(shards))
    for record in records:
        account.add(record)
    return account


def account_of(folder: Folder, job: Job, finished: Mapping[int, ShardRecord] | None = None) -> Account:
    """The account of the finished shards of the folder's part; for a whole job with the results of its retries.

    Args:
        finished: what `finished_shards` has just returned, where the caller has it.
    """
    records = finished_shards(folder, job) if finished is None else finished
    account = add_up(job, records.values(), folder.part)
    for retried in retry_rounds(folder) if folder.part.is_whole else ():
        round_job = read_job(retried)
        assert round_job is not None
        account.add_round(finished_shards(retried, round_job).values(), round_job.num_shards)
    return account


def write_report(folder: Folder, job: Job, account: Account, run: dict[str, Any] | None) -> None:
    """Write `report.json`: rows kept, failed by reason, and left; their sum is the number of listed rows."""
    left = account.listed - account.accounted
    assert account.kept + sum(account.failed.values()) + left == account.listed
    write_json(
        folder.report,
        {
            "source": job.source,
            "listed": account.listed,
            "kept": account.kept,
            "failed": dict(sorted(account.failed.items())),
            "left": left,
            "complete": account.complete,
            "shards": {"finished": account.finished_shards, "of": account.num_shards},
            "bytes": account.bytes,
            "last_run": run,
        },
    )


def print_summary(account: Account, stream: TextIO) -> None:
    """Print a line for the rows that became samples, and one for each reason of those that did not."""
    print(f"listed  {account.listed:>10}", file=stream)
    print(f"kept    {account.kept:>10}  {_share(account.kept, account.accounted)}", file=stream)
    for reason, count in sorted(account.failed.items(), key=lambda item: (-item[1], item[0])):
        print(f"failed  {count:>10}  {_share(count, account.accounted)}  {quote(reason)}", file=stream)
    if not account.complete:
        print(f"left    {account.listed - account.accounted:>10}", file=stream)
    shards = f"{account.finished_shards} of {account.num_shards} shards"
    print(f"{shards}, {account.bytes / 2**20:.1f} MiB", file=stream)


def _share(count: int, total: int) -> str:
    return f"{count / total:6.1%}" if total else "   -  "
