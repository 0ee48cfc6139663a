"""The parser of the commands, and the flags of those that take a recipe: every recipe key is a flag there."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from pathlib import Path
from typing import Any

from base.parser import Parser
from pipeline.config.recipe import shipped_recipes
from pipeline.config.resolve import recipe_keys
from pipeline.config.run_config import DEFAULT_TASK, RunConfig


class RecipeParser(Parser):
    """A parser that lists the recipes where none is given, and keeps the lines of its description and epilog."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def hint(self, message: str) -> str:
        if message.endswith("required: RECIPE"):
            return f"give the path of a YAML recipe, or one of {', '.join(shipped_recipes())}"
        return super().hint(message)


def add_recipe_argument(parser: argparse.ArgumentParser, *, before: str = "") -> None:
    """The positional RECIPE, and --KEY VALUE in the usage; `before` are the arguments before it, in the usage."""
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        help=f"path of a YAML recipe or of a run folder, or one of {', '.join(shipped_recipes())}",
    )
    parser.usage = f"{parser.prog} {before}RECIPE [flags] [--KEY VALUE ...]"


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """--run-dir and --resume."""
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="the run folder (default: runs/NAME of the recipe)")
    parser.add_argument(
        "--resume",
        choices=["auto", "must", "never"],
        default="auto",
        help="auto: resume from the run folder's newest whole checkpoint, if there is one (default); "
        "must: fail if there is none; never: fail if there is one",
    )


def default_run_dir(config: RunConfig) -> Path:
    """The run folder of a run without --run-dir."""
    return Path("runs") / config.name


def split_overrides(arguments: list[str], parser: Parser) -> tuple[list[str], list[str]]:
    """Separate the command's own arguments from recipe keys (`--optim.lr 1e-4`), which may be mixed with them.

    Any long flag that is not the command's counts as a key; looking the keys up finds misspelt ones.
    """
    own: list[str] = []
    keys: list[str] = []
    tokens = iter(arguments)
    for token in tokens:
        name = token.partition("=")[0]
        if not token.startswith("--") or name in parser.flags():
            own.append(token)
            action = parser._option_string_actions.get(token)
            if action is not None and action.nargs is None and (value := next(tokens, None)) is not None:
                own.append(value)
            continue
        keys.append(token)
        if "=" not in token and (value := next(tokens, None)) is not None:
            if value.startswith("--"):  # the key has no value: this is the next flag
                more_own, more_keys = split_overrides([value, *tokens], parser)
                return own + more_own, keys + more_keys
            keys.append(value)
    return own, keys


def recipe_help(task: str = DEFAULT_TASK) -> str:
    """Every recipe key of a task with its type, default and docstring, from the dataclasses."""
    width = min(120, shutil.get_terminal_size((100, 24)).columns)
    lines = [
        "recipe keys, set in the recipe or as --KEY VALUE or --KEY=VALUE.",
        "precedence: defaults < preset < recipe < flags. Defaults below are those of preset fixed and model size base.",
    ]
    section = None
    for key in recipe_keys(task):
        if (head := key.name.rpartition(".")[0]) != section:
            section = head
            lines.append("")
        default = "null" if key.default is None else key.default
        default = list(default) if isinstance(default, tuple) else default
        lines.append(f"  --{key.name}  {key.type_name} (default: {default})")
        lines += textwrap.wrap(key.doc, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
