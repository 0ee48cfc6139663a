"""Errors that travel."""

from __future__ import annotations

import pickle

import pytest

from albef.errors import CheckpointError, ConfigError, DataError, UserError


@pytest.mark.parametrize("kind", [UserError, ConfigError, DataError, CheckpointError])
def test_message_and_hint_survive_the_way_to_another_process(kind: type[UserError]) -> None:
    """Ranks and loader workers hand errors over by pickle; the hint must arrive with the message."""
    arrived = pickle.loads(pickle.dumps(kind("no such file", "look again")))
    assert type(arrived) is kind
    assert (arrived.message, arrived.hint) == ("no such file", "look again")
