"""Checks before a download that the list's hosts resolve: a broken resolver looks like a list of dead links."""

from __future__ import annotations

import random
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from data_prep.errors import UnfinishedError
from data_prep.fetch.address_guard import PrivateAddress, check_spelling, spelled_addresses
from data_prep.lists.row_list import read_shard_table

SAMPLE_HOSTS = 50
SAMPLE_SHARDS = 8
PATIENCE_S = 30.0


@dataclass(frozen=True)
class DnsCheck:
    asked: int
    """Distinct hosts looked up; 0 when this machine would look up none of the sample."""
    resolved: int

    def __str__(self) -> str:
        if not self.asked:
            return "dns check: nothing to look up"
        return (
            f"dns check: {self.resolved} of {self.asked} hosts of the list resolve ({self.resolved / self.asked:.0%})"
        )


def _getaddrinfo(host: str) -> None:
    socket.getaddrinfo(host, 80, 0, socket.SOCK_STREAM)


def check_dns(
    hosts: Iterable[str], *, resolve: Callable[[str], object] = _getaddrinfo, patience_s: float = PATIENCE_S
) -> DnsCheck:
    """Look up all hosts at the same time; one without an answer in time counts as not resolved.

    Raises: UnfinishedError when there are hosts and not one of them resolves.
    """
    answered: dict[str, bool] = {}

    def look_up(host: str) -> None:
        try:
            resolve(host)
            answered[host] = True
        except (OSError, UnicodeError):
            answered[host] = False

    wanted = set(hosts)
    # Daemons: a look-up cannot be cancelled, and must not keep the command from ending.
    threads = [threading.Thread(target=look_up, args=(host,), daemon=True) for host in sorted(wanted)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + patience_s
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    check = DnsCheck(len(wanted), sum(list(answered.values())))
    if check.asked and not check.resolved:
        raise UnfinishedError(
            f"none of {check.asked} hosts of the list resolves: {', '.join(sorted(wanted)[:3])}",
            "the resolver of this machine is the likely fault (/etc/resolv.conf, or no way out of this network); "
            "--no-dns-check starts without this check",
        )
    return check


def sample_hosts(rows: Path, shards: list[int], *, seed: int = 0) -> set[str]:
    """Up to 50 distinct hosts that this machine would look up, from up to 8 of the shards, chosen by the seed.

    IP addresses in a URL need no look-up, and behind a proxy the proxy does it.
    """
    chooser = random.Random(seed)
    proxies = urllib.request.getproxies()
    hosts: set[str] = set()
    for shard in chooser.sample(shards, min(SAMPLE_SHARDS, len(shards))):
        table = read_shard_table(rows, shard)
        for url, rejected in zip(table["url"].to_pylist(), table["rejected"].to_pylist(), strict=True):
            if rejected is None:
                parts = urlsplit(url)
                host = parts.hostname or ""
                if parts.scheme not in proxies or urllib.request.proxy_bypass(host):
                    hosts.add(host)
    named = sorted(filter(_needs_a_look_up, hosts))
    return set(chooser.sample(named, min(SAMPLE_HOSTS, len(named))))


def _needs_a_look_up(host: str) -> bool:
    try:
        check_spelling(host)
    except PrivateAddress:
        return False
    return bool(host) and not spelled_addresses(host)
