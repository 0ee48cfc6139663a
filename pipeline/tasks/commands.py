"""`pipeline pretrain` and `pipeline finetune`: the commands that train, with every key of the recipe as a flag."""

from __future__ import annotations

import argparse

from pipeline.config.flags import add_recipe_argument, add_run_arguments, default_run_dir
from pipeline.config.resolve import load_config
from pipeline.config.run_config import DEFAULT_TASK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `pretrain`, beside every key of the recipe."""
    add_recipe_argument(parser)
    add_training_arguments(parser)


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of every command that trains."""
    add_run_arguments(parser)
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="on a GPU: only algorithms that give the same bits every time, slower (docs/speed.md); a CPU always does",
    )


def run(args: argparse.Namespace) -> int:
    """`pretrain`."""
    return train_recipe(args, DEFAULT_TASK)


def train_recipe(args: argparse.Namespace, task: str) -> int:
    """Train a recipe of `task`, or resume its run; the exit code."""
    config = load_config(args.recipe, args.overrides, task=task, other_flags=args.flags)
    from pipeline.engine.distributed import prepare_deepspeed_import

    prepare_deepspeed_import()
    if args.deterministic:
        from pipeline.engine.deterministic import use_deterministic

        use_deterministic()
    # It imports DeepSpeed, which reads the variable set above; `--help` needs neither.
    from pipeline.tasks.makers import maker_of
    from pipeline.train import train

    return train(config, args.run_dir or default_run_dir(config), maker_of(task), resume=args.resume)
