"""The connections that carry heartbeats: every rank keeps one to rank 0; both send JSON, one object per line.

A connection breaks at once when its process ends in any way, and needs neither a shared file system nor the store of
the process group, which ends with its host.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_UNSENT = 1 << 16
"""Bytes kept for a peer that does not read; further messages are dropped."""
CONNECT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Address:
    """Host and port at which rank 0 listens; broadcast to the others once."""

    hosts: tuple[str, ...]
    port: int
    token: str
    """Proves that a client belongs to this run."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """Identifies a process of the job, also if its number is used again."""

    host: str
    pid: int
    started: str
    """Its start time in the kernel's ticks, which differs for a later process with the same number."""

    @classmethod
    def own(cls) -> Process:
        """The calling process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Process:
        """A process of this machine; for one that has ended already, `is_here` is never True."""
        return cls(host=socket.gethostname(), pid=pid, started=_start_of(pid))

    def is_here(self) -> bool:
        """Whether it still exists, on this machine."""
        return self.host == socket.gethostname() and self.started != "" and self.started == _start_of(self.pid)


class Connection:
    """One connection; its methods never block."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.open = True
        self._in = self._out = b""

    def send(self, message: dict[str, Any]) -> None:
        """Send a message: now what the peer accepts, later the rest. Messages beyond MAX_UNSENT are dropped."""
        if len(self._out) < MAX_UNSENT:
            self._out += json.dumps(message).encode() + b"\n"
        try:
            self._out = self._out[self.socket.send(self._out) :]
        except BlockingIOError:
            pass
        except OSError:
            self.open = False

    def receive(self) -> list[dict[str, Any]]:
        """The messages received. `open` becomes False when the connection ends, or the data is not ours."""
        try:
            while data := self.socket.recv(1 << 16):
                self._in += data
            self.open = False
        except BlockingIOError:
            pass
        except OSError:
            self.open = False
        *whole, self._in = self._in.split(b"\n")
        try:
            messages = [json.loads(line) for line in whole]
        except ValueError:
            messages = [None]
        if len(self._in) > MAX_UNSENT or not all(isinstance(message, dict) for message in messages):
            self.open, messages = False, []  # a port scanner; the thread that reads this must not raise
        return messages


class Transport:
    """This rank's connections, by the rank at the other end."""

    def __init__(self) -> None:
        self.connections: dict[int, Connection] = {}
        self._wake, self._woken = socket.socketpair()

    def wait(self, timeout_s: float) -> None:
        """Wait until data arrives, `wake` is called, or the timeout passes."""
        poll = select.poll()  # select() handles no descriptor beyond 1023, and a trainer may have more
        for each in (
            self._woken,
            *self._listened_to(),
            *(connection.socket for connection in self.connections.values() if connection.open),
        ):
            poll.register(each, select.POLLIN)
        poll.poll(1000 * timeout_s)

    def wake(self) -> None:
        """End a `wait` of another thread, and every later one."""
        self._wake.send(b".")

    def receive(self) -> dict[int, list[dict[str, Any]]]:
        """The messages received, by rank."""
        return {rank: connection.receive() for rank, connection in self.connections.items() if connection.open}

    def _listened_to(self) -> list[socket.socket]:
        return []


class Server(Transport):
    """Rank 0's side: listens, and keeps the connections of the ranks that have sent their number.

    Args:
        host: the name under which the others reach this machine.
    """

    def __init__(self, host: str) -> None:
        super().__init__()
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        self._listener = socket.create_server(("", 0), family=family, dualstack_ipv6=both, backlog=1024)
        self._listener.setblocking(False)
        self._strangers: list[Connection] = []
        self.address = Address(
            hosts=(host, socket.gethostname()), port=self._listener.getsockname()[1], token=secrets.token_hex(16)
        )

    def receive(self) -> dict[int, list[dict[str, Any]]]:
        """The messages received, by rank."""
        received = super().receive()
        with contextlib.suppress(BlockingIOError):
            while True:
                self._strangers.append(Connection(self._listener.accept()[0]))
        for connection in list(self._strangers):
            messages = connection.receive()
            if messages and messages[0].get("token") == self.address.token:
                rank = messages[0]["rank"]
                self.connections[rank], received[rank] = connection, messages
            if messages or not connection.open:
                self._strangers.remove(connection)
        return received

    def _listened_to(self) -> list[socket.socket]:
        return [self._listener, *(connection.socket for connection in self._strangers if connection.open)]


class Client(Transport):
    """Any other rank's side: one connection, to rank 0.

    Raises: OSError when rank 0 cannot be reached.
    """

    def __init__(self, address: Address, rank: int) -> None:
        super().__init__()
        self.connections[0] = Connection(_connect(address))
        self.connections[0].send({"rank": rank, "token": address.token})


def _connect(address: Address) -> socket.socket:
    problem: OSError = OSError("no host to connect to")
    deadline = time.monotonic() + CONNECT_S
    for host in address.hosts:
        try:
            return socket.create_connection((host, address.port), timeout=max(1.0, deadline - time.monotonic()))
        except OSError as error:
            problem = error
    raise problem


def _start_of(pid: int) -> str:
    """The start time of a process in /proc; empty if there is none, or if it has ended and is not reaped yet."""
    try:
        # read as bytes: the process name in it, cut to 15 bytes, may not be valid text
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode().split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
