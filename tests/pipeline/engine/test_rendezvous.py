"""Ranks that do not come: the others log which are missing, and give up with an error."""

from __future__ import annotations

import logging
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from albef.errors import ConfigError
from pipeline.engine.rendezvous import meet


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_rank_that_does_not_come_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Ranks 0 and 2 of 4 wait for 1 and 3, log it every half second, and end with the same error."""
    port = free_port()
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor() as both:
        waiting = [both.submit(meet, r, 4, "127.0.0.1", port, log_every_s=0.5, give_up_s=1.4) for r in (0, 2)]
        errors = [future.exception() for future in waiting]
    for rank, error in zip((0, 2), errors, strict=True):
        assert isinstance(error, ConfigError) and f"ranks 1, 3 did not come to 127.0.0.1:{port}" in error.message, error
        assert "srun or torchrun" in error.hint
        assert f"rank {rank} of 4 has waited 1 s at 127.0.0.1:{port} for ranks 1, 3" in caplog.text


def test_without_rank_0_the_others_say_where_they_look_for_it(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody listens there."""
    port = free_port()
    with caplog.at_level(logging.WARNING), pytest.raises(ConfigError, match=f"rank 0 did not come to 127.0.0.1:{port}"):
        meet(1, 2, "127.0.0.1", port, log_every_s=0.5, give_up_s=1.0)
    assert f"rank 1 of 2 has waited 1 s at 127.0.0.1:{port} for rank 0" in caplog.text


def test_a_port_that_another_process_has_is_an_error_at_once() -> None:
    """With the variable that chooses another one."""
    with socket.create_server(("", 0)) as somebody:
        port = somebody.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is taken by another process") as error:
            meet(0, 2, "127.0.0.1", port)
    assert "MASTER_PORT" in error.value.hint


def test_ranks_that_all_come_share_a_store() -> None:
    """What one sets the other reads, in any order of arrival."""
    port = free_port()
    with ThreadPoolExecutor() as all_three:
        stores = list(all_three.map(lambda rank: meet(rank, 3, "127.0.0.1", port), (2, 1, 0)))
    stores[0].set("from rank 2", "a word")
    assert stores[2].get("from rank 2") == b"a word"
