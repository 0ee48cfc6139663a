"""Failures by host: the hosts with the most failures in all shards, and the share that fails in the sampled ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data_prep.report.counters import CommonCounter
from data_prep.report.sample_stats import SampleStats, host_of

CAPACITY = 50_000


@dataclass(frozen=True)
class Host:
    name: str
    failed: int
    """In all shards."""
    reason: str
    """The commonest."""
    sampled: int
    """Rows of the host in the sampled shards."""
    failing: int
    """Those of them that failed."""


class FailedHosts:
    """Reads `failures/NAME.jsonl` of every shard, a line at a time."""

    def __init__(self) -> None:
        self._failed = CommonCounter(CAPACITY)
        self._sampled = CommonCounter(CAPACITY)
        self._reasons = CommonCounter(CAPACITY)
        self.lines = 0
        self.missing = 0
        """Shards without a list of failures, or whose list is gone."""

    @property
    def missed(self) -> int:
        return self._failed.missed

    def read(self, manifest: Path, paths: Iterable[str], stats: SampleStats) -> None:
        for path in paths:
            tar = manifest.parent / path
            failures = tar.parent.parent / "failures" / f"{tar.stem}.jsonl"
            if not failures.exists():
                self.missing += 1
                continue
            with failures.open(encoding="utf-8") as lines:
                self._read(lines, sampled=path in stats.names)

    def _read(self, lines: Iterable[str], sampled: bool) -> None:
        hosts: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for line in lines:
            failure = json.loads(line)
            host = host_of(failure["url"])
            self.lines += 1
            if host:
                hosts[host] += 1
                reasons[f"{host} {failure['reason']}"] += 1
        self._failed.add(hosts)
        self._reasons.add(reasons)
        if sampled:
            self._sampled.add(hosts)

    def most(self, number: int, stats: SampleStats) -> list[Host]:
        """Hosts with the most failures, descending."""
        reasons: dict[str, str] = {}
        for pair, _ in self._reasons.most_common(2 * CAPACITY):
            host, _, reason = pair.partition(" ")
            reasons.setdefault(host, reason)
        return [
            Host(
                name,
                failed,
                reasons.get(name, ""),
                self._sampled[name] + stats.kept_by_host[name],
                self._sampled[name],
            )
            for name, failed in self._failed.most_common(number)
        ]
