"""`pipeline pretrain`: the commands that train, with every key of the recipe as a flag."""

from __future__ import annotations

import argparse

from pipeline.config.flags import add_recipe_argument, add_run_arguments, default_run_dir
from pipeline.config.resolve import load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `pretrain`, beside every key of the recipe."""
    add_recipe_argument(parser)
    add_run_arguments(parser)
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="on a GPU: only algorithms that give the same bits every time, slower (docs/speed.md); a CPU always does",
    )


def run(args: argparse.Namespace) -> int:
    """`pretrain`."""
    config = load_config(args.recipe, args.overrides, other_flags=args.flags)
    from pipeline.engine.distributed import prepare_deepspeed_import

    prepare_deepspeed_import()
    if args.deterministic:
        from pipeline.engine.deterministic import use_deterministic

        use_deterministic()
    # It imports DeepSpeed, which reads the variable set above; `--help` needs neither.
    from pipeline.tasks.pretraining.maker import pretrain

    return pretrain(config, args.run_dir or default_run_dir(config), resume=args.resume)
