"""`data_prep status`: what is done, what is left, failures by reason."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_prep.accounting import account_of, print_summary
from data_prep.errors import InputError
from data_prep.job import Folder, read_job


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("folder", metavar="DIR", help="the --out folder of a download or pack")


def run(flags: argparse.Namespace) -> int:
    """Exit code: 0."""
    folder = Folder(Path(flags.folder))
    job = read_job(folder)
    if job is None:
        raise InputError(f"{folder.root} is not the folder of a download or pack", "give its --out folder")
    print(f"{job.kind} of {job.source} in {folder.root}")
    print_summary(account_of(folder, job), sys.stdout)
    return 0
