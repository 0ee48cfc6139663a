"""`data_prep retry`: download again the rows whose failure may be gone by now, into a round of shards."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from base.errors import UsageError
from data_prep.accounts.accounting import account_of, print_summary
from data_prep.commands import verify
from data_prep.commands.flags.fetch_flags import add_fetch_flags, check_resolver, fetch_settings
from data_prep.commands.flags.job_flags import add_max_image_bytes, add_processes
from data_prep.commands.flags.yield_flag import add_min_yield
from data_prep.commands.run_job import run_job
from data_prep.errors import FolderError, InputError, YieldError
from data_prep.lists.exclusion import Exclusions, kept_exclusions
from data_prep.output.job import Folder, Job, exclusive, read_job
from data_prep.output.part_progress import PartProgress
from data_prep.output.storage import local_folder
from data_prep.shards.writer import ShardRecord
from data_prep.stages.download import download_arguments, download_shards
from data_prep.stages.retry import WORTH_RETRYING, finished_download, open_round, retried_images, round_reasons


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("folder", metavar="DIR", help="the --out folder of a finished download")
    parser.add_argument(
        "--reasons",
        metavar="A,B",
        help=f"which failures to ask for again (default: {','.join(WORTH_RETRYING)})",
    )
    add_max_image_bytes(parser)
    add_min_yield(parser, 0.0, "the rows asked for again became samples")
    add_processes(parser)
    add_fetch_flags(parser)


def run(flags: argparse.Namespace) -> int:
    """Exit code: 0 all is whole, or nothing is left to retry; 1 a shard is wrong or unfinished."""
    folder = Folder(local_folder(flags.folder))
    first = read_job(folder)
    if first is None or first.kind != "download":
        what = "is not the folder of a download" if first is None else f"is of a {first.kind}: nothing was downloaded"
        raise InputError(f"{folder.root} {what}", "give the --out folder of a download")
    made = finished_download(folder, first)
    exclusions = kept_exclusions(folder.root)
    _check_exclusions(folder, made, exclusions)
    settings = dataclasses.replace(fetch_settings(flags), exclusions=exclusions)
    with exclusive(folder):
        opened = open_round(folder, first, _reasons(flags.reasons))
        if opened is None:
            print("nothing is left to retry")
            print_summary(account_of(folder, first), sys.stdout)
            return 0
        retried, job = opened
        print(f"{retried.root.name}: {job.num_rows} rows in {job.num_shards} shards", file=sys.stderr)

        def build_shards(
            job: Job, done: dict[int, ShardRecord], pool: ProcessPoolExecutor, reporter: PartProgress
        ) -> None:
            arguments = {
                **download_arguments(job, settings.limits, ""),
                **exclusions.identity(),
                "command": "retry",
                "round": job.round,
                "reasons": round_reasons(retried),
                "list": made.arguments.get("list", ""),
                "inputs_sha256": first.inputs_sha256,
            }
            check_resolver(flags, retried, job, done)
            download_shards(retried, job, done, settings, 0.0, arguments, pool, reporter)

        images = retried_images(folder, first, retried)
        too_few, code = None, 1
        try:
            code = run_job(retried, job, images, settings.processes, build_shards, flags.min_yield, corpus=folder.root)
        except YieldError as error:  # raised below, after the sums of all rounds are printed
            too_few = error
    verify.report_again(folder)
    print()
    print_summary(account_of(folder, first), sys.stdout)
    if too_few is not None:
        raise too_few
    return code


def _check_exclusions(folder: Folder, made: ShardRecord, exclusions: Exclusions) -> None:
    """Raises: FolderError for other exclusions than the download's: the retry could fetch what it left out."""
    recorded = {
        name: made.arguments[name] for name in ("excluded_domains", "excluded_hashes") if name in made.arguments
    }
    if recorded != exclusions.identity():
        raise FolderError(
            f"{folder.root / 'excluded'} does not hold the lists that the download was made with",
            "restore it; or delete it and run the same download command again, which writes it",
        )


def _reasons(text: str | None) -> Sequence[str] | None:
    if text is None:
        return None
    reasons = [reason.strip() for reason in text.split(",")]
    if not all(reason and reason.isascii() and reason.replace("_", "").isalnum() for reason in reasons):
        raise UsageError(f"--reasons {text!r} are not names of reasons", "separate them by commas: http_403,opted_out")
    return reasons
