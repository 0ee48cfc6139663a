"""Errors that a user can cause and fix. Raised where the fault is known, printed in one place (`data_prep.cli`)."""

from __future__ import annotations


class UserError(Exception):
    """What is wrong, with its numbers, and the way out.

    Args:
        message: one sentence naming the thing that is wrong; printed after `error:`.
        hint: what the user can do about it; printed after `hint:`.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)  # both: an exception from a worker process is rebuilt from its args
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} (hint: {self.hint})"


class UsageError(UserError):
    """A command line that cannot be run as it is."""


class InputError(UserError):
    """A URL list, annotation file or image folder that cannot be read as it is."""


class FolderError(UserError):
    """An output folder that belongs to another job, is in use, or cannot be written."""


class UnfinishedError(UserError):
    """The work could not be completed: what is done stays, and the same command resumes from there."""

    exit_code = 1


class YieldError(UserError):
    """Fewer listed rows became samples than `--min-yield` asks for. What was made stays, and is true."""

    exit_code = 1


class AccountingError(UserError):
    """A listed row that is counted twice or nowhere: not kept, failed, filtered or left."""
