"""The command line: `python -m pipeline COMMAND`, also installed as `albef-pipeline`.

Commands are imported when they are called, so that `--help` is quick. What a user can fix is printed as `error:` and
`hint:` and exits 2; a run that saved after a requested stop exits 75; a bug keeps its traceback and exits 1.
"""

from __future__ import annotations

import importlib
import os
import sys

from albef.errors import ConfigError, ProcessKilledError
from base.errors import UserError
from base.nearest import did_you_mean
from base.standard_streams import release_unwritable
from pipeline.exit_codes import LOST
from pipeline.run import logs
from pipeline.watch import launcher
from samples.json_text import NOT_UTF8_HINT, is_unicode
from samples.quote import cut_words, quote

COMMANDS = {
    "check": (
        "pipeline.planning.check",
        "print what a recipe resolves to: batch, memory, shards; needs no GPU",
    ),
    "order": ("pipeline.planning.order", "print which samples each step sees, for any ranks and workers; needs no GPU"),
    "pretrain": ("pipeline.tasks.commands", "train a recipe; the same command again resumes where it stopped"),
    "finetune": ("pipeline.tasks.finetune", "train a trained model further, for one of the paper's tasks"),
    "ablate": ("pipeline.ablation.command", "the paper's ablation table: six rows under equal budgets, over seeds"),
    "status": (
        "pipeline.watch.status",
        "print how far a run is: step, rate, time left, checkpoint; from its folder alone",
    ),
    "replay": (
        "pipeline.tasks.replay",
        "repeat a skipped step; show the module and the samples with which it goes wrong",
    ),
    "evaluate": ("pipeline.tasks.evaluate", "evaluate a model, pretrained or fine-tuned, on one of the tasks"),
    "export": ("pipeline.tasks.pretraining.export", "turn a checkpoint into a model folder, or the official .pth"),
    "import": ("pipeline.tasks.pretraining.import_official", "turn an official .pth into a model folder"),
    "bench": (
        "pipeline.planning.bench",
        "measure a recipe's training step on this device: time, memory, ratio to a plain one",
    ),
}
"""Command -> (module with `add_arguments(parser)` and `run(args) -> exit code`, what it does)."""

TAKES_RECIPE = ("bench", "check", "finetune", "pretrain")
"""Commands whose flags include every key of a recipe; their `run` gets them as `args.overrides`."""

RANK_VARIABLES = ("RANK", "SLURM_PROCID")

EXIT_CODES = (
    "exit codes: 0 done, 1 a bug (traceback), 2 something to fix (error: and hint:), 69 a rank, its launcher or a "
    "data worker was killed, or a rank is stuck, 75 stopped and saved"
)


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
        return _run(arguments)
    except UserError as error:
        if debug:
            raise
        logs.print_error(cut_words(error.message, arguments), cut_words(error.hint, arguments), rank=rank)
        return LOST if isinstance(error, ProcessKilledError) else error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        return 141
    except SystemExit as leaving:  # argparse after --help
        return leaving.code if isinstance(leaving.code, int) else 0
    finally:
        release_unwritable()


def _run(arguments: list[str]) -> int:
    """Run a command; a missing package, at any import, is something the user can fix."""
    try:
        return _dispatch(arguments)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("albef", "base", "pipeline", "samples", ""):
            raise
        raise ConfigError(
            f"{missing} is not installed", "install the project with `pip install -e .[train]`"
        ) from error


def _dispatch(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("-h", "--help"):
        logs.print_answer(overview())
        return 0
    if odd := next((word for word in arguments if not is_unicode(word)), ""):  # Arrow and YAML accept no such path
        raise ConfigError(f"{quote(odd)} holds bytes that are not UTF-8", NOT_UTF8_HINT)
    if not arguments:
        raise ConfigError("no command given", f"one of {', '.join(COMMANDS)}; see `python -m pipeline --help`")
    command, *rest = arguments
    if command not in COMMANDS:
        raise ConfigError(
            f"there is no command {quote(command)}",
            f"{did_you_mean(command, COMMANDS)}there are {', '.join(COMMANDS)}",
        )
    from pipeline.config.flags import (  # pydantic and yaml, not always installed
        RecipeParser,
        recipe_help,
        split_overrides,
    )
    from pipeline.config.run_config import DEFAULT_TASK, RUNS

    module_name, summary = COMMANDS[command]
    module = importlib.import_module(module_name)
    parser = RecipeParser(prog=f"pipeline {command}", description=summary, epilog=EXIT_CODES)
    module.add_arguments(parser)
    overrides: list[str] = []
    if command in TAKES_RECIPE:
        rest, overrides = split_overrides(rest, parser)
        if "--help" in rest or "-h" in rest:
            task = next((word for word in rest if word in RUNS), DEFAULT_TASK)
            parser.epilog = f"{recipe_help(task)}\n\n{EXIT_CODES}"
    known, unknown = parser.parse_known_args(rest)
    if unknown:
        parser.error(f"unrecognized arguments: {quote(' '.join(unknown), 200)}")
    known.overrides = overrides
    known.flags = parser.flags()
    return module.run(known)


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
            "`python -m pipeline COMMAND --help` lists a command's flags; --debug, anywhere, shows tracebacks.",
            EXIT_CODES,
        ]
    )
