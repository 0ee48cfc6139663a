"""`data_prep status`: what is done, what is left, failures by reason; what each running part is doing."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from data_prep.accounts.accounting import print_summary
from data_prep.accounts.array_status import ArrayStatus, array_status
from data_prep.accounts.datasheet import DATASHEET_NAME
from data_prep.errors import InputError
from data_prep.filters.corpus import Corpus, changed_inputs, read_record
from data_prep.output.job import Folder, read_job, retry_rounds
from data_prep.output.storage import storage_location
from samples.quote import one_line, quote


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("folder", metavar="DIR", help="the --out folder of a download, pack or filter")
    parser.add_argument("--work", metavar="DIR", help="with a URI as DIR: the --work folder of the running job")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(flags: argparse.Namespace) -> int:
    """Exit code: 0. Reads files only, so that it reports work on other machines too."""
    folder = Folder(storage_location(flags.folder), work_root=Path(flags.work) if flags.work else None)
    corpus = Corpus(folder.root)
    if (record := read_record(corpus)) is not None:
        return _print_corpus(corpus, record, flags.json)
    job = read_job(folder)
    if job is None:
        raise InputError(f"{folder.root} is not the folder of a download or pack", "give its --out folder")
    status = array_status(folder, job)
    rounds = {
        round_.root.name: array_status(round_, started)
        for round_ in retry_rounds(folder)
        if (started := read_job(round_))
    }
    if flags.json:
        retries = {name: retried.as_json() for name, retried in rounds.items()}
        print(json.dumps({"folder": str(folder.root), **status.as_json(), "retries": retries}, indent=1))
        return 0
    _print(f"{job.kind} of {job.source} in {folder.root}", status)
    for name, retried in rounds.items():
        _print(f"\n{name}: {retried.job.kind} of {retried.job.source}", retried)
    return 0


def _print(title: str, status: ArrayStatus) -> None:
    print(title)
    for line in status.lines():
        print(one_line(line))
    print_summary(status.account, sys.stdout)


def _print_corpus(corpus: Corpus, record: dict[str, Any], as_json: bool) -> int:
    datasheet = corpus.root / DATASHEET_NAME
    sums: dict[str, Any] = json.loads(datasheet.read_bytes()) if datasheet.exists() else {}
    if as_json:
        print(
            json.dumps(
                {"folder": str(corpus.root), "kind": "filter", "corpus": record, "datasheet": sums or None}, indent=1
            )
        )
        return 0
    print(f"filtered corpus in {corpus.root}, of {len(record['inputs'])} manifests")
    for note in changed_inputs(corpus, record):
        print(f"note: {note}")
    if not sums:
        done = len(list(corpus.features.glob("*.parquet")))
        shards = sum(source["shards"] for source in record["inputs"])
        print(f"not finished: {done} files of features for {shards} shards; run the same `data_prep filter` to resume")
        return 0
    print(f"listed    {sums['listed']:>10}\nkept      {sums['kept']:>10}")
    for what in ("failed", "filtered"):
        for name, count in sorted(sums[what].items(), key=lambda item: (-item[1], item[0])):
            print(f"{what:<8}  {count:>10}  {quote(name)}")
    if sums["left"]:
        print(f"left      {sums['left']:>10}")
    return 0
