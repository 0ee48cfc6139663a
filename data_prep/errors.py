"""What can be wrong with what a user gives to data_prep. `data_prep.cli` prints these errors."""

from __future__ import annotations

from base.errors import UserError


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
