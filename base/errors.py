"""Errors that a user can cause and fix. Raised where the fault is known; the `cli.py` of each package prints them."""

from __future__ import annotations


class UserError(Exception):
    """What is wrong, with the numbers in it, and how to fix it.

    Args:
        message: one sentence naming the thing that is wrong; printed after `error:`.
        hint: what the user can do about it; printed after `hint:`.
    """

    exit_code = 2
    """Of the command that ends with this error."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)  # both: pickle, by which other processes send errors, rebuilds them from these
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} (hint: {self.hint})"


class UsageError(UserError):
    """A command line that cannot be run as it is."""
