"""What can be wrong with what a user gives to the model or a run. `pipeline.cli` prints these errors."""

from __future__ import annotations

from base.errors import UserError


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
