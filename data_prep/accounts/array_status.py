"""What the parts of a job are doing, put together from files alone: shards' records and each part's `progress.json`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from base.progress import duration
from data_prep.accounts.accounting import Account, account_of, finished_shards
from data_prep.output.job import Folder, Job
from data_prep.output.part_progress import PartState, read_states
from data_prep.output.parts import Part

SLOW_AFTER_S = 60.0


@dataclass(frozen=True)
class ArrayStatus:
    """A job and its parts at one moment."""

    job: Job
    account: Account
    """Of the finished shards of all parts, retries included."""
    parts: tuple[PartState, ...]
    """What the parts report; a part that has not started reports nothing."""
    rows_finished: tuple[int, ...]
    """Rows of finished shards in each part of the newest cut."""
    now: datetime

    @property
    def count(self) -> int:
        """Number of parts in the newest cut; 0 before any part has started."""
        return self.parts[0].count if self.parts else 0

    @property
    def running(self) -> list[PartState]:
        """Parts whose process still writes its progress."""
        return [part for part in self.parts if not part.ended and not part.silent_s(self.now)]

    @property
    def rows_answered(self) -> int:
        """Rows of finished shards, and answered rows of those that are being made.

        For each part the larger of its report and its finished shards: the report is seconds old, and a shard may be
        finished since.
        """
        if not self.count:
            return self.account.accounted
        reported = {part.number: part.rows_answered for part in self.running if part.count == self.count}
        return sum(max(rows, reported.get(number, 0)) for number, rows in enumerate(self.rows_finished, start=1))

    @property
    def rate(self) -> float:
        """Rows per second of all running parts together."""
        return sum(part.rate for part in self.running)

    @property
    def left_s(self) -> float | None:
        """Seconds until the slowest part ends; None when a part is missing or has no rate yet."""
        if len(self.running) + sum(part.state == "finished" for part in self.current) < self.count:
            return None
        each = [part.left_s() for part in self.running]
        return None if not each or None in each else max(left for left in each if left is not None)

    @property
    def current(self) -> list[PartState]:
        """Parts of the newest cut."""
        return [part for part in self.parts if part.count == self.count]

    def lines(self) -> list[str]:
        """One for each part of the newest cut, for parts of another cut that still run, and one for all."""
        reports = {part.number: part for part in self.current}
        lines = [self._line(number, reports.get(number)) for number in range(1, self.count + 1)]
        others = [part for part in self.parts if part.count != self.count and not part.ended]
        lines += [self._line(part.number, part, part.count) for part in others]
        if self.running:
            left = duration(self.left_s) if self.left_s is not None else "?"
            share = self.rows_answered / self.account.listed if self.account.listed else 0.0
            lines.append(
                f"all: {len(self.running)} running, rows {self.rows_answered}/{self.account.listed} ({share:.0%})  "
                f"{self.rate:.1f}/s  {left} left"
            )
        return lines

    def as_json(self) -> dict[str, Any]:
        reports = {part.number: part for part in self.current}
        return {
            "kind": self.job.kind,
            "source": self.job.source,
            "listed": self.account.listed,
            "kept": self.account.kept,
            "failed": dict(sorted(self.account.failed.items())),
            "left": self.account.listed - self.account.accounted,
            "shards": {"finished": self.account.finished_shards, "of": self.account.num_shards},
            "bytes": self.account.bytes,
            "rows_answered": self.rows_answered,
            "rows_per_s": round(self.rate, 3),
            "left_s": None if self.left_s is None else round(self.left_s),
            "parts": [self._part_json(number, reports.get(number)) for number in range(1, self.count + 1)],
        }

    def _part_json(self, number: int, part: PartState | None) -> dict[str, Any]:
        if part is None:
            return {"part": f"{number}/{self.count}", "state": "not started"}
        silent_s = round(part.silent_s(self.now))
        return {**dataclasses.asdict(part), "state": "silent" if silent_s else part.state, "silent_s": silent_s}

    def _line(self, number: int, part: PartState | None, count: int = 0) -> str:
        name = f"part {number}/{count or self.count}"
        if part is None:
            return f"{name}: not started"
        if part.state == "finished":
            return f"{name}: finished {part.written}, {_shards(part)}, {part.kept} kept"
        if part.state == "stopped":
            return f"{name}: stopped {part.written}, {_shards(part)}: {part.error}"
        if silence := part.silent_s(self.now):
            what = f"silent for {duration(silence)}, killed or cut off"
        else:
            unchanged = (self.now - datetime.fromisoformat(part.changed)).total_seconds()
            what = part.state + (f", no row for {duration(unchanged)}" if unchanged > SLOW_AFTER_S else "")
        share = part.rows_answered / part.rows if part.rows else 0.0
        left = duration(left_s) if (left_s := part.left_s()) is not None else "?"
        restarts = f", img2dataset started again {part.restarts} times" if part.restarts else ""
        return (
            f"{name}: {what}  {_shards(part)}, rows {part.rows_answered}/{part.rows} ({share:.0%})  "
            f"{part.rate:.1f}/s  {left} left  {part.host}:{part.pid} since {part.started}{restarts}"
        )


def array_status(folder: Folder, job: Job, now: datetime | None = None) -> ArrayStatus:
    """The status of a job's folder at `now`, by default this moment; reads files only."""
    parts = tuple(read_states(folder))
    count = parts[0].count if parts else 0
    finished = finished_shards(folder, job)
    shares = (Part(number, count).shards(job.num_shards) for number in range(1, count + 1))
    rows = tuple(sum(finished[shard].listed for shard in share if shard in finished) for share in shares)
    return ArrayStatus(job, account_of(folder, job, finished), parts, rows, now or datetime.now(UTC))


def _shards(part: PartState) -> str:
    return f"shards {part.shards_finished}/{part.shards}"
