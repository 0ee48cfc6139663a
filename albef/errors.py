"""Errors that a user can cause and fix. Raised where the fault is known; `pipeline.cli` prints all of them."""

from __future__ import annotations


class UserError(Exception):
    """What is wrong, with the numbers in it, and how to fix it.

    Args:
        message: one sentence naming the thing that is wrong; printed after `error:`.
        hint: what the user can do about it; printed after `hint:`.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)  # both: pickle, which ranks use to send errors, rebuilds them from these
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} (hint: {self.hint})"


class ConfigError(UserError):
    """A recipe, flag or DeepSpeed setting that cannot be used as it is."""


class DataError(UserError):
    """A manifest, shard, annotation or image that cannot be used as it is."""


class CheckpointError(UserError):
    """A checkpoint, weight file or exported model that cannot be read, or does not fit the model."""


class TrainingError(UserError):
    """A run whose numbers are not finite, step after step."""


class ProcessKilledError(UserError):
    """A process of a run was killed from outside: the command is not at fault and can be run again."""
