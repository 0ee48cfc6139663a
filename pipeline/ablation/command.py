"""`pipeline ablate PLAN`: the rows of the paper's ablation under equal budgets, over seeds, and the table of them."""

from __future__ import annotations

import argparse
import logging
import shlex
from pathlib import Path

from albef.errors import ConfigError
from base import atomic_file
from base.errors import UserError
from pipeline.ablation import table as tables
from pipeline.ablation.plan import AblationPlan, load_plan
from pipeline.ablation.rows import ROWS
from pipeline.ablation.runs import STOPPED, Ablation, Command, open_folder, run_command
from pipeline.exit_codes import STOPPED_AND_SAVED
from pipeline.run.logs import print_answer
from samples.quote import quote

log = logging.getLogger(__name__)


class RowsFailedError(UserError):
    """Some rows of an ablation have no result, or cannot be compared."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `ablate`."""
    parser.add_argument("plan", metavar="PLAN", help="path of a YAML plan, or `world`, which ships with the project")
    parser.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="folder of all runs (default: runs/NAME of the plan)"
    )
    parser.add_argument("--rows", metavar="ROW,ROW", help="run only these rows of the plan")
    parser.add_argument("--seeds", metavar="N,N", help="run only these seeds of the plan")
    parser.add_argument(
        "--launch",
        metavar="WORDS",
        help="what starts Python on all ranks: 'srun python', 'torchrun --nproc-per-node 8' (default: one rank)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands that are left, and run none")


def run(args: argparse.Namespace) -> int:
    """`ablate`. Returns 0, or 75 after a request to stop: the same command resumes.

    Raises: RowsFailedError when a row has failed or the budgets differ.
    """
    planned = load_plan(args.plan)
    rows, seeds = chosen(planned.plan, args.rows, args.seeds)
    ablation = Ablation(planned=planned, folder=args.run_dir or Path("runs") / planned.plan.name)
    if args.dry_run:
        for command in left(ablation, rows, seeds):
            print_answer(shlex.join(command.line(args.launch, python="python")))
        return 0
    open_folder(ablation)
    failed: list[str] = []
    broken: dict[Path, int] = {}
    for seed in seeds:
        for row in rows:
            code = run_row(ablation, row, seed, args.launch, broken)
            if code in STOPPED:
                log.info("stopped by request; the same command resumes from here")
                return STOPPED_AND_SAVED
            if code:
                failed.append(f"{row} with seed {seed}")
            tables.write(ablation)
    table = tables.write(ablation)
    print_answer(tables.markdown(table, planned.plan) + str(ablation.folder / "table.json"))
    report(failed, table)
    return 0


def chosen(plan: AblationPlan, rows: str | None, seeds: str | None) -> tuple[list[str], list[int]]:
    """The rows and seeds of the plan that the flags name. Raises: ConfigError for others."""
    found: list[list[str]] = []
    for flag, given, there in (("--rows", rows, plan.rows), ("--seeds", seeds, map(str, plan.seeds))):
        all_of_plan = list(there)
        wanted = all_of_plan if given is None else given.split(",")
        if unknown := [word for word in wanted if word not in all_of_plan]:
            raise ConfigError(
                f"{flag}: {quote(unknown[0])} is not in the plan", f"the plan has {', '.join(all_of_plan)}"
            )
        found.append([word for word in all_of_plan if word in wanted])
    return found[0], [int(seed) for seed in found[1]]


def left(ablation: Ablation, rows: list[str], seeds: list[int]) -> list[Command]:
    """The commands that are not done, each once, in the order in which they run."""
    commands = (one for seed in seeds for row in rows for one in ablation.commands(ROWS[row], seed))
    return list(dict.fromkeys(command for command in commands if not command.result.exists()))


def run_row(ablation: Ablation, name: str, seed: int, launch: str | None, broken: dict[Path, int]) -> int:
    """Run what is left of a row and a seed; the exit code of the command that ended it, or 0.

    Args:
        broken: exit codes of commands that failed in this start, by result: they are not tried again for a row that
            shares them. Those of this row are added.
    """
    for command in ablation.commands(ROWS[name], seed):
        if command.result.exists():
            continue
        log.info("row %s, seed %d: %s", name, seed, command.title)
        code = broken.get(command.result) or run_command(command, launch)
        if code in STOPPED:
            return code
        if code:
            broken[command.result] = code
            record = {"command": command.title, "exit_code": code}
            ablation.failure(name, seed).parent.mkdir(parents=True, exist_ok=True)
            atomic_file.write_json(ablation.failure(name, seed), record)
            log.error("row %s, seed %d: %s failed with exit code %d", name, seed, command.title, code)
            return code
    ablation.failure(name, seed).unlink(missing_ok=True)
    return 0


def report(failed: list[str], table: tables.Table) -> None:
    """Raise an error that names what is missing from the table or makes it meaningless."""
    if table["unequal_budgets"]:
        raise RowsFailedError(
            f"the budgets of the rows differ: {table['unequal_budgets'][0]}",
            "was the data replaced meanwhile? remove the folders of the runs on other data, and run the same command",
        )
    if failed:
        raise RowsFailedError(
            f"{len(failed)} runs failed: {', '.join(failed)}",
            "what their commands printed above shows the reason; the same command runs them again",
        )
