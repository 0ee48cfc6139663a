"""Retry rounds: which failed rows are worth asking for again, and the list of those rows.

A round is a job folder inside the first one's: `DIR/retry-01`, `DIR/retry-02`, ... Its rows are fixed when
it starts, in `retried.parquet`: each row with the failure that its result replaces.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from base.atomic_file import replacing
from data_prep.accounts.accounting import finished_shards
from data_prep.errors import FolderError, InputError
from data_prep.lists.row_list import ListedImage, read_part, read_shard_rows
from data_prep.output.job import Folder, Job, read_job, retry_rounds
from data_prep.output.storage import file_sha256
from data_prep.shards.writer import ShardRecord

WORTH_RETRYING = (
    *("timed_out", "too_slow", "connection_refused", "connection_failed", "unknown_host", "incomplete_body"),
    *("bad_http", "http_408", "http_425", "http_429", "http_5xx", "download_failed"),
)
"""Failures that may be gone another day. `http_5xx` stands for http_500 to http_599."""
RETRIED_NAME = "retried.parquet"
REASONS_KEY = b"data_prep_reasons"
SCHEMA = pa.schema([pa.field("row", pa.int64(), nullable=False), pa.field("reason", pa.string(), nullable=False)])

Failure = tuple[int, str]
"""Row of the list, and why it is not a sample."""


def is_meant(reason: str, reasons: Sequence[str]) -> bool:
    """Whether a failure's reason is among `reasons`; `http_5xx` there stands for a hundred."""
    return reason in reasons or (f"{reason[:6]}xx" in reasons and re.fullmatch(r"http_[0-9]{3}", reason) is not None)


def finished_download(folder: Folder, job: Job) -> ShardRecord:
    """The record of the download's first shard, which holds how all of them were made.

    Raises: FolderError when a shard of the download is still to be made, so that there is nothing to retry yet.
    """
    finished = finished_shards(folder, job)
    missing = job.num_shards - len(finished)
    if missing:
        raise FolderError(
            f"{folder.root} is unfinished: {missing} of {job.num_shards} shards are missing",
            "run the same download command again, and retry when it has ended",
        )
    return finished[0]


def open_round(folder: Folder, job: Job, reasons: Sequence[str] | None) -> tuple[Folder, Job] | None:
    """The round to work on: the unfinished one, or a new one; None when no row is left to retry.

    Args:
        reasons: which failures to ask for again; None for those worth it.
    Raises: FolderError when an unfinished round was started with other reasons.
    """
    rounds = retry_rounds(folder)
    for unfinished in rounds:
        started = read_job(unfinished)
        assert started is not None
        if len(finished_shards(unfinished, started)) < started.num_shards:
            before = round_reasons(unfinished)
            if reasons is not None and set(reasons) != set(before):
                raise FolderError(
                    f"{unfinished.root} was started with --reasons {','.join(before)} and is not finished",
                    "leave --reasons out to finish it first",
                )
            return unfinished, started
    number = len(rounds) + 1
    next_round = Folder(folder.root / f"retry-{number:02d}")
    wanted = tuple(reasons or WORTH_RETRYING)
    num_rows = _write_retried(next_round, job, wanted, left_failures(folder, job))
    if not num_rows:
        return None
    digest = file_sha256(next_round.root / RETRIED_NAME)
    inputs = hashlib.sha256(f"{job.inputs_sha256} {digest}".encode()).hexdigest()
    return next_round, dataclasses.replace(job, kind="retry", round=number, inputs_sha256=inputs, num_rows=num_rows)


def left_failures(folder: Folder, job: Job) -> Iterator[Failure]:
    """Every row that is not a sample, ascending, with the reason of its last attempt. Memory: a shard's failures."""
    rounds = [_RoundResults(retried) for retried in retry_rounds(folder)]
    for shard in range(job.num_shards):
        left = _failures(folder, job.shard_name(shard))
        for results in rounds:
            for row, reason in results.below((shard + 1) * job.shard_size):
                if reason is None:
                    left.pop(row, None)
                else:
                    left[row] = reason
        yield from sorted(left.items())


def later_retries(folder: Folder, job: Job) -> tuple[Path, ...]:
    """The lists of rows of the retry rounds after this job (a download, or a round of one), in their order."""
    first = Folder(folder.root.parent) if job.kind == "retry" else folder
    rounds = [(retried, read_job(retried)) for retried in retry_rounds(first)]
    return tuple(retried.root / RETRIED_NAME for retried, later in rounds if later and later.round > job.round)


def superseded_rows(later: Sequence[Path], rows: Collection[int]) -> dict[int, str]:
    """Rows of a shard that a later round retries, each with the failure that the round's result replaces.

    When the shard has to be made again, such a row is no sample of it even if its image arrives this time: the round
    has the sample, or will have it.
    """
    found: dict[int, str] = {}
    for path in later:
        table = pq.read_table(path, filters=[("row", ">=", min(rows)), ("row", "<=", max(rows))])
        for retried in table.to_pylist():
            if retried["row"] in rows:
                found.setdefault(retried["row"], f"{retried['reason']}: retried in {path.parent.name}")
    return found


class _RoundResults:
    """The results of a finished round, rows ascending: the reason of a failure, or None for a sample."""

    def __init__(self, folder: Folder) -> None:
        self._results = self._read(folder)
        self._next = next(self._results, None)

    def below(self, end: int) -> Iterator[tuple[int, str | None]]:
        while self._next is not None and self._next[0] < end:
            yield self._next
            self._next = next(self._results, None)

    @staticmethod
    def _read(folder: Folder) -> Iterator[tuple[int, str | None]]:
        job = read_job(folder)
        assert job is not None
        with pq.ParquetFile(folder.root / RETRIED_NAME) as file:
            for shard in range(file.num_row_groups):
                failed = _failures(folder, job.shard_name(shard))
                for row in file.read_row_group(shard, columns=["row"])["row"].to_pylist():
                    yield row, failed.get(row)


def _failures(folder: Folder, name: str) -> dict[int, str]:
    """Reason by row, of one shard."""
    path = folder.failures / f"{name}.jsonl"
    try:
        with open(path, encoding="utf-8") as lines:
            return {failure["row"]: failure["reason"] for failure in map(json.loads, lines)}
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is missing or broken: {error}",
            f"delete {folder.shards / name}.json and run the download again: it makes that shard again",
        ) from error


def _write_retried(folder: Folder, job: Job, reasons: Sequence[str], failures: Iterator[Failure]) -> int:
    """Write the round's rows, one row group a shard, atomically; returns how many there are. Nothing when none."""
    chosen: Iterator[Failure] = (failure for failure in failures if is_meant(failure[1], reasons))
    first = next(chosen, None)
    if first is None:
        return 0
    folder.root.mkdir(exist_ok=True)
    path = folder.root / RETRIED_NAME
    chosen, num_rows = itertools.chain([first], chosen), 0
    schema = SCHEMA.with_metadata({REASONS_KEY: ",".join(reasons)})
    with replacing(path) as unpublished, pq.ParquetWriter(unpublished, schema) as writer:
        while chunk := list(itertools.islice(chosen, job.shard_size)):
            rows, why = zip(*chunk, strict=True)
            writer.write_table(pa.table({"row": rows, "reason": why}, schema=writer.schema), row_group_size=len(chunk))
            num_rows += len(chunk)
    return num_rows


def round_reasons(folder: Folder) -> list[str]:
    """The reasons that the round was started with."""
    return pq.read_schema(folder.root / RETRIED_NAME).metadata[REASONS_KEY].decode().split(",")


def retried_images(folder: Folder, job: Job, round_folder: Folder) -> Iterator[ListedImage]:
    """The round's rows of the first list, with their numbers there and the failures that their results replace.

    Raises: InputError when the list that the download read is gone from `.work`.
    """
    lists = _kept_lists(folder)
    shard, rows = -1, {}
    with pq.ParquetFile(round_folder.root / RETRIED_NAME) as file:
        for batch in file.iter_batches():
            for retried in batch.to_pylist():
                if retried["row"] // job.shard_size != shard:
                    shard = retried["row"] // job.shard_size
                    rows = _listed(lists, shard, folder)
                image = rows[retried["row"]]
                yield dataclasses.replace(image, row=retried["row"], supersedes=retried["reason"])


def _kept_lists(folder: Folder) -> list[Path]:
    return sorted((folder.root / ".work").glob("rows.parquet")) + sorted(
        (folder.root / ".work").glob("part-*/rows.parquet")
    )


def _listed(lists: Sequence[Path], shard: int, folder: Folder) -> dict[int, ListedImage]:
    for path in lists:
        if shard in read_part(path).shards(shard + 1):
            return read_shard_rows(path, shard)
    raise InputError(
        f"the list that the download read is gone from {folder.root / '.work'}",
        "run the same download command again: it reads the list, and fetches nothing that is finished",
    )
