"""The maker of each task, by its name: how the commands that take any recipe reach a task."""

from __future__ import annotations

from albef.errors import ConfigError
from pipeline.task_maker import TaskMaker


def maker_of(task: str) -> TaskMaker:
    """The maker of a task; only its own modules are imported.

    Raises: ConfigError for a task that cannot be trained yet.
    """
    if task == "pretraining":
        from pipeline.tasks.pretraining.maker import PRETRAINING

        return PRETRAINING
    raise ConfigError(f"the task {task} cannot be trained yet", "`pretrain` trains recipes of pretraining")
