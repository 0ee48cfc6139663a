"""How heartbeats travel, between two ends in one process."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.watch.heartbeat_wire import MAX_UNSENT, Address, Client, Process, Server, Transport


def received(transport: Transport, rank: int, count: int) -> list[dict[str, Any]]:
    """The next `count` messages of a rank."""
    messages: list[dict[str, Any]] = []
    deadline = time.monotonic() + 30
    while len(messages) < count:
        assert time.monotonic() < deadline, messages
        transport.wait(1.0)
        messages += transport.receive().get(rank, [])
    return messages


def test_messages_go_both_ways_in_order_and_an_end_is_noticed() -> None:
    """Three each way; then one side goes, and the other sees it without a message."""
    server = Server("127.0.0.1")
    client = Client(server.address, rank=3)
    for number in range(3):
        client.connections[0].send({"number": number})
    assert [message.get("number") for message in received(server, 3, 4)] == [None, 0, 1, 2], "the first names its rank"
    for number in range(3):
        server.connections[3].send({"number": number})
    assert [message["number"] for message in received(client, 0, 3)] == [0, 1, 2]
    client.connections[0].socket.close()
    server.wait(30.0)
    assert server.receive() == {3: []} and not server.connections[3].open


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.0\r\n\r\n", b"[1]\n", b"7\n", b'{"rank": 1, "token": "no"}\n', b"x" * 200_000, b""],
    ids=["http", "list", "number", "wrong token", "long", "nothing"],
)
def test_a_stranger_on_the_port_changes_nothing(data: bytes) -> None:
    """A port scanner becomes no rank, for any bytes it sends, and the ranks are heard as before."""
    server = Server("127.0.0.1")
    with socket.create_connection(("127.0.0.1", server.address.port)) as stranger:
        stranger.setblocking(False)
        client = Client(server.address, rank=1)
        with contextlib.suppress(BlockingIOError):  # of the long one only what the buffer takes
            stranger.send(data)
        server.wait(30.0)
        server.receive()
        client.connections[0].send({"beat": 1})
        assert received(server, 1, 1)
        assert list(server.connections) == [1]


def test_a_peer_that_does_not_read_costs_neither_time_nor_memory() -> None:
    """100,000 messages to one that never reads: what does not fit is dropped, and the line stays open."""
    server = Server("127.0.0.1")
    client = Client(server.address, rank=1)
    received(server, 1, 1)
    for _ in range(100_000):
        server.connections[1].send({"beat": "x" * 100})
    assert len(server.connections[1]._out) < 2 * MAX_UNSENT and server.connections[1].open
    assert received(client, 0, 1)[0] == {"beat": "x" * 100}


def test_rank_0_that_cannot_be_reached_is_an_error() -> None:
    """A port that nobody listens on any more."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(OSError):
        Client(Address(hosts=("127.0.0.1",), port=port, token=""), rank=1)


def test_a_process_is_known_by_its_start() -> None:
    """It is here while it lives, on this host; one of the same number that began at another time is another."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    own = Process.own()
    assert own.pid == os.getpid() and own.is_here()
    assert not Process(host="elsewhere", pid=own.pid, started=own.started).is_here()
    assert not Process(host=own.host, pid=child.pid, started=own.started).is_here()
    child.kill()
    child.wait()


def test_a_process_with_a_name_that_is_no_text_is_known_until_it_dies(tmp_path: Path) -> None:
    """Linux cuts names to 15 bytes, within a letter too; a dead process is not here, though nobody has reaped it."""
    program = tmp_path / "schläfer ééé"  # 15 bytes end within the second é
    program.symlink_to(shutil.which("sleep") or "")
    with subprocess.Popen([program, "100"]) as child:
        process = Process.of(child.pid)
        while b"schl" not in Path(f"/proc/{child.pid}/comm").read_bytes():
            time.sleep(0.01)
        with pytest.raises(UnicodeDecodeError):
            Path(f"/proc/{child.pid}/comm").read_bytes().strip().decode()
        assert process.is_here()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not reaped
        assert not process.is_here()
