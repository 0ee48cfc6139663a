"""`pipeline finetune TASK RECIPE`: a trained model, trained on for one of the paper's tasks."""

from __future__ import annotations

import argparse

from pipeline.config.flags import add_recipe_argument
from pipeline.config.run_config import DEFAULT_TASK, RUNS
from pipeline.tasks.commands import add_training_arguments, train_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `finetune`, beside every key of the task's recipe."""
    parser.add_argument("task", metavar="TASK", choices=[task for task in RUNS if task != DEFAULT_TASK], help=_TASKS)
    add_recipe_argument(parser, before="TASK ")
    add_training_arguments(parser)


_TASKS = "one of " + ", ".join(task for task in RUNS if task != DEFAULT_TASK)


def run(args: argparse.Namespace) -> int:
    """`finetune`."""
    return train_recipe(args, args.task)
