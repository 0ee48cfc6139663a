"""`data_prep verify`: check every shard and write manifest.parquet."""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from base import flag_types
from base.progress import Progress
from data_prep.accounts.accounting import account_of, write_report
from data_prep.commands.flags.job_flags import add_processes, num_processes
from data_prep.filters.corpus import Corpus, changed_inputs, read_record
from data_prep.filters.verification import verify_corpus
from data_prep.output.job import Folder, read_job
from data_prep.output.storage import storage_location
from data_prep.stages.verify import Verification, verify_folder
from data_prep.workers.worker_pool import open_pool
from samples.quote import one_line

MAX_PROBLEMS_SHOWN = 100


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("folder", metavar="DIR", help="the --out folder of a download, pack or filter")
    parser.add_argument(
        "--sample",
        type=flag_types.share,
        default=1.0,
        metavar="F",
        help="share of the images to decode; hashes are always checked",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of images to decode (0)")
    add_processes(parser)
    parser.add_argument("--keep-going", action="store_true", help="write a manifest of the good shards; still exit 1")


def run(flags: argparse.Namespace) -> int:
    """Exit code: 0 when all shards are whole, 1 when something is wrong."""
    processes = num_processes(flags)
    with open_pool(processes) as pool:
        result = verify_with_progress(
            storage_location(flags.folder), pool, processes, flags.sample, flags.seed, flags.keep_going
        )
    report_again(Folder(storage_location(flags.folder)))
    if flags.sample < 1:
        print(f"decoded {result.num_decoded} of {result.num_samples} images (seed {flags.seed})")
    return print_result(result)


def verify_with_progress(
    root: Path, pool: ProcessPoolExecutor, processes: int, fraction: float, seed: int, keep_going: bool
) -> Verification:
    """`verify_folder`, or `verify_corpus` for what `filter` made, with a bar of shards."""
    progress: list[Progress] = []

    def on_shard(done: int, total: int) -> None:
        if not progress:
            progress.append(Progress("verified shards", total))
        (progress[0].finish if done == total else progress[0].update)(done)

    corpus = Corpus(root)
    if (record := read_record(corpus)) is None:
        return verify_folder(
            root, pool, processes, fraction=fraction, seed=seed, keep_going=keep_going, on_shard=on_shard
        )
    for note in changed_inputs(corpus, record):
        print(f"note: {note}")
    return verify_corpus(
        corpus, pool, processes, fraction=fraction, seed=seed, keep_going=keep_going, on_shard=on_shard
    )


def print_result(result: Verification) -> int:
    """Print the problems and the outcome; returns the exit code."""
    for problem in result.problems[:MAX_PROBLEMS_SHOWN]:
        print(f"wrong: {one_line(str(problem))}")
    if len(result.problems) > MAX_PROBLEMS_SHOWN:
        print(f"wrong: and {len(result.problems) - MAX_PROBLEMS_SHOWN} more")
    for stray in result.strays[:MAX_PROBLEMS_SHOWN]:
        print(f"note: {one_line(str(stray))}")
    if len(result.strays) > MAX_PROBLEMS_SHOWN:
        print(f"note: and {len(result.strays) - MAX_PROBLEMS_SHOWN} more")
    if result.withdrawn:
        print(f"the earlier manifest is no longer true: moved to {result.withdrawn}")
    if result.stands:
        print(f"the earlier manifest stays: no shard that it names is known to be broken ({result.stands})")
    written = f"wrote {result.manifest}" if result.manifest else "no manifest was written"
    print(f"{result.num_shards} shards, {result.num_samples} samples, {len(result.problems)} problems; {written}")
    return 1 if result.problems else 0


def report_again(folder: Folder) -> None:
    """Write `report.json` for the shards that are there now: parts write none, and a shard may be gone since."""
    job = read_job(folder)
    if job is not None:
        try:
            last_run = json.loads(folder.report.read_bytes())["last_run"]
        except (OSError, ValueError, KeyError, TypeError):
            last_run = None
        write_report(folder, job, account_of(folder, job), last_run)
