"""Errors that travel, and the exit code of a command that ends with one."""

from __future__ import annotations

import pickle

import pytest

import albef.errors
import data_prep.errors
from base.errors import UsageError, UserError

KINDS: list[type[UserError]] = [
    UserError,
    UsageError,
    *(
        kind
        for module in (albef.errors, data_prep.errors)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, UserError) and kind is not UserError
    ),
]


@pytest.mark.parametrize("kind", KINDS)
def test_message_and_hint_survive_the_way_to_another_process(kind: type[UserError]) -> None:
    """Ranks and loader workers hand errors over by pickle; the hint must arrive with the message."""
    arrived = pickle.loads(pickle.dumps(kind("no such file", "look again")))
    assert type(arrived) is kind
    assert (arrived.message, arrived.hint) == ("no such file", "look again")
    assert str(arrived) == "no such file (hint: look again)"


def test_every_package_has_its_kinds_of_error() -> None:
    """A mistake of the user ends a command with 2; work that is not complete, with 1."""
    assert {"ConfigError", "CheckpointError", "InputError", "UnfinishedError"} <= {kind.__name__ for kind in KINDS}
    assert {kind.__name__ for kind in KINDS if kind.exit_code != 2} == {"UnfinishedError", "YieldError"}
