"""The command line: `python -m pipeline COMMAND`, also installed as `albef-pipeline`.

Commands are imported when they are called, so that `--help` is quick. What a user can mend is printed as `error:` and
`hint:` and exits 2; a run that was told to stop and saved exits 75; a bug keeps its traceback and exits 1.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from albef.errors import ConfigError, ProcessKilledError, UserError
from pipeline.config.nearest import nearest
from pipeline.exit_codes import LOST
from pipeline.run import logs
from pipeline.watch import launcher
from samples.json_text import NOT_UTF8_HINT, is_unicode
from samples.quote import cut_words, quote

if TYPE_CHECKING:
    from pipeline.config.run_config import RunConfig

COMMANDS = {
    "check": (
        "pipeline.planning.check",
        "print what a recipe means: batch, memory, shards; needs no GPU",
    ),
    "order": ("pipeline.planning.order", "print which samples each step sees, for any ranks and workers; needs no GPU"),
    "pretrain": ("pipeline.cli", "train a recipe; the same command again goes on where it stopped"),
    "status": (
        "pipeline.watch.status",
        "how far a run is: step, rate, time left, checkpoint; from its folder alone",
    ),
    "replay": (
        "pipeline.watch.replay",
        "take a refused step again; show where, with which samples, it goes wrong",
    ),
    "evaluate": ("pipeline.tasks.evaluate", "evaluate a model: retrieval"),
    "export": ("pipeline.export.from_checkpoint", "turn a checkpoint into a model folder, or the official .pth"),
    "import": ("pipeline.export.from_official", "turn an official .pth into a model folder"),
    "bench": ("pipeline.planning.bench", "measure one training step on the device at hand"),
}
"""Command -> (module with `add_arguments(parser)` and `run(args) -> exit code`, what it does)."""

TAKES_RECIPE = ("check", "pretrain")
"""Commands whose flags include every key of a recipe; their `run` gets them as `args.overrides`."""

RANK_VARIABLES = ("RANK", "SLURM_PROCID")

EXIT_CODES = (
    "exit codes: 0 done, 1 a bug (traceback), 2 something to mend (error: and hint:), 69 a rank, its launcher or a "
    "data worker was killed, or a rank is stuck, 75 stopped and saved"
)


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are a ConfigError, and which never guesses at a shortened flag."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs["allow_abbrev"] = False
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found, with the usage as the way out."""
        hint = " ".join(self.format_usage().split()) + f"; {self.prog} --help"
        if message.endswith("required: RECIPE"):
            from pipeline.config.recipe import shipped_recipes

            hint = f"give the path of a YAML recipe, or one of {', '.join(shipped_recipes())}"
        raise ConfigError(f"{self.prog}: {message}", hint)

    def flags(self) -> list[str]:
        """Every long flag, those of subcommands included."""
        found = [flag for flag in self._option_string_actions if flag.startswith("--")]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                found += [flag for sub in action.choices.values() for flag in sub.flags()]
        return found


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    given = next((os.environ[name] for name in RANK_VARIABLES if os.environ.get(name)), "0")
    rank = int(given) if given.isdigit() else 0
    logs.setup_console(rank, debug=debug)
    launcher.watch()
    try:
        return _dispatch(arguments)
    except UserError as error:
        if debug:
            raise
        logs.print_error(cut_words(error.message, arguments), cut_words(error.hint, arguments), rank=rank)
        return LOST if isinstance(error, ProcessKilledError) else 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        return 141
    except SystemExit as leaving:  # argparse after --help
        return leaving.code if isinstance(leaving.code, int) else 0
    finally:
        logs.release_unwritable()


def _dispatch(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("-h", "--help"):
        logs.print_answer(overview())
        return 0
    if odd := next((word for word in arguments if not is_unicode(word)), ""):  # Arrow and YAML take no such path
        raise ConfigError(f"{quote(odd)} holds bytes that are not UTF-8", NOT_UTF8_HINT)
    if not arguments:
        raise ConfigError("no command given", f"one of {', '.join(COMMANDS)}; `python -m pipeline --help` tells more")
    command, *rest = arguments
    if command not in COMMANDS:
        close = nearest(command, COMMANDS)
        raise ConfigError(
            f"there is no command {quote(command)}",
            (f"did you mean {close}? " if close else "") + f"there are {', '.join(COMMANDS)}",
        )
    module_name, summary = COMMANDS[command]
    module = _import(module_name)
    parser = Parser(prog=f"pipeline {command}", description=summary, epilog=EXIT_CODES)
    module.add_arguments(parser)
    overrides: list[str] = []
    if command in TAKES_RECIPE:
        rest, overrides = split_overrides(rest, parser)
        if "--help" in rest or "-h" in rest:
            parser.epilog = f"{recipe_help()}\n\n{EXIT_CODES}"
    known, unknown = parser.parse_known_args(rest)
    if unknown:
        close = nearest(unknown[0].partition("=")[0], parser.flags()) if unknown[0].startswith("-") else None
        raise ConfigError(
            f"pipeline {command}: unknown argument{'s' if len(unknown) > 1 else ''} {quote(' '.join(unknown), 200)}",
            (f"did you mean {close}? " if close else "") + f"`python -m pipeline {command} --help` lists them",
        )
    known.overrides = overrides
    known.flags = parser.flags()
    return module.run(known)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `pretrain`, beside every key of the recipe."""
    add_recipe_argument(parser)
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """--run-dir and --resume."""
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="the run folder (default: runs/NAME of the recipe)")
    parser.add_argument(
        "--resume",
        choices=["auto", "must", "never"],
        default="auto",
        help="auto: go on from the run folder's newest whole checkpoint, if there is one (default); "
        "must: insist on one; never: insist on none",
    )


def default_run_dir(config: RunConfig) -> Path:
    """Where a run without --run-dir lies."""
    return Path("runs") / config.name


def run(args: argparse.Namespace) -> int:
    """`pretrain`."""
    from pipeline.config.run_config import load_config

    config = load_config(args.recipe, args.overrides, other_flags=args.flags)
    _import("pipeline.engine.distributed").prepare_deepspeed_import()
    train = _import("pipeline.train")
    return train.pretrain(config, args.run_dir or default_run_dir(config), resume=args.resume)


def add_recipe_argument(parser: argparse.ArgumentParser) -> None:
    """The positional RECIPE, and --KEY VALUE in the usage."""
    from pipeline.config.recipe import shipped_recipes

    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        help=f"path of a YAML recipe or of a run folder, or one of {', '.join(shipped_recipes())}",
    )
    parser.usage = f"{parser.prog} RECIPE [flags] [--KEY VALUE ...]"


def split_overrides(arguments: list[str], parser: Parser) -> tuple[list[str], list[str]]:
    """Part the command's own arguments from recipe keys (`--optim.lr 1e-4`), which may stand anywhere.

    Any long flag that is not the command's counts as a key; a misspelt one is found when keys are looked up.
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
            if value.startswith("--"):  # the key has no value: leave this for its own turn
                more_own, more_keys = split_overrides([value, *tokens], parser)
                return own + more_own, keys + more_keys
            keys.append(value)
    return own, keys


def overview() -> str:
    """The top-level help."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: python -m pipeline COMMAND ...",
            "",
            "Train, evaluate and export ALBEF.",
            "",
            *lines,
            "",
            "`python -m pipeline COMMAND --help` tells a command's flags; --debug, anywhere, shows tracebacks.",
            EXIT_CODES,
        ]
    )


def recipe_help() -> str:
    """Every recipe key with its type, default and docstring, from the dataclasses."""
    from pipeline.config.run_config import recipe_keys

    width = min(120, shutil.get_terminal_size((100, 24)).columns)
    lines = [
        "recipe keys, set in the recipe or as --KEY VALUE or --KEY=VALUE.",
        "precedence: defaults < preset < recipe < flags. Defaults below are those of preset fixed and model size base.",
    ]
    section = None
    for key in recipe_keys():
        if (head := key.name.rpartition(".")[0]) != section:
            section = head
            lines.append("")
        default = "null" if key.default is None else key.default
        default = list(default) if isinstance(default, tuple) else default
        lines.append(f"  --{key.name}  {key.kind_text} (default: {default})")
        lines += textwrap.wrap(key.doc, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _import(name: str) -> Any:
    """Import a command's module; a dependency that is not installed is something to mend."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("albef", "pipeline", ""):
            raise
        raise ConfigError(
            f"{missing} is not installed", "install the project with `pip install -e .[train]`"
        ) from error
