"""The files in the shards/ folders of a job and of its retries: shards to check, and files that are no shards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

from data_prep.errors import InputError
from data_prep.output.job import Folder, Job, read_job, retry_rounds
from data_prep.shards.writer import read_record
from samples.quote import quote


class Weight(Enum):
    """What a problem means for the manifest."""

    BROKEN = auto()
    """A shard that the manifest should name is broken or missing."""
    UNREAD = auto()
    """Such a shard could not be read, so its state is unknown: a permission, or a missing disk."""
    FOREIGN = auto()
    """A shard of something else, which no manifest of this folder names."""


@dataclass(frozen=True)
class Problem:
    """What is wrong, and with which sample: `sample` is a key or member name, empty for the shard as a whole."""

    shard: str
    sample: str
    reason: str
    weight: Weight = Weight.BROKEN

    def __str__(self) -> str:
        where = ": ".join(quote(name) for name in (self.shard, self.sample) if name)
        return f"{where}: {self.reason}"


@dataclass(frozen=True)
class ShardTask:
    """One shard to check; `listed` is the number of rows it must account for, when that is known."""

    root: Path
    tar: str
    listed: int | None
    fraction: float
    seed: int
    inside: str = ""
    """Path from the manifest's folder to `root`: `retry-01/` for a retry."""

    @property
    def path(self) -> str:
        """The shard's path in the manifest."""
        return f"{self.inside}shards/{self.tar}"


@dataclass
class Survey:
    """What was found: first of the job, then round by round."""

    tasks: list[ShardTask] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    """Files and folders that are no shards, such as `shards/.DS_Store`: harmless, but reported."""


def survey(folder: Folder, fraction: float, seed: int) -> Survey:
    """Every shard to check, the job's first and then round by round, and what is wrong with the folders themselves.

    Args:
        fraction, seed: for the tasks.
    Raises: InputError when a folder cannot be read.
    """
    found = Survey()
    for one in (folder, *retry_rounds(folder)):
        job = read_job(one)
        inside = "" if one is folder else f"{one.root.name}/"
        listed = _listed_by_name(job)
        tars = _survey_one(one, job, inside, found)
        found.tasks += [ShardTask(one.root, tar, listed(tar), fraction, seed, inside) for tar in tars]
    if not found.tasks and all(problem.weight is Weight.FOREIGN for problem in found.problems):
        found.problems.append(Problem("shards", "", "no shard in it"))
    return found


def _survey_one(folder: Folder, job: Job | None, inside: str, found: Survey) -> list[str]:
    """Names of the tars that belong to this job, or that have a record where no job is known."""
    present = _names(folder.shards)
    expected = None if job is None else {job.shard_name(index) for index in range(job.num_shards)}
    tars = []
    for name in present:
        stem, _, extension = name.rpartition(".")
        if extension not in ("tar", "json") or name.startswith("."):
            found.strays.append(_stray(f"{inside}shards/{name}"))
        elif expected is not None and stem not in expected:
            if extension == "tar":
                where = f"{inside}shards/{name}" if inside else name
                found.problems.append(Problem(where, "", "foreign shard: not of this job", Weight.FOREIGN))
            elif f"{stem}.tar" not in present:
                found.strays.append(_stray(f"{inside}shards/{name}"))
        elif extension == "tar":
            if expected is None and f"{stem}.json" not in present:
                reason = f"foreign or unfinished tar: no record {quote(stem)}.json beside it"
                found.problems.append(Problem(name, "", reason, Weight.FOREIGN))
            else:
                tars.append(name)
        elif f"{stem}.tar" not in present:
            if expected is not None or _is_record(folder.shards / name):
                found.problems.append(Problem(name, "", "record without its tar"))
            else:
                found.strays.append(_stray(f"{inside}shards/{name}"))
    again = "`data_prep retry`" if job is not None and job.round else "the same command"
    missing = sorted(f"{stem}.tar" for stem in expected or () if f"{stem}.tar" not in present)
    found.problems += [Problem(tar, "", f"missing: run {again} again") for tar in missing]
    return tars


def _names(shards: Path) -> dict[str, None]:
    """Names in a folder, sorted; none for a folder that does not exist."""
    try:
        return dict.fromkeys(sorted(path.name for path in shards.iterdir()))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(
            f"{shards} cannot be read: {error.strerror or error}", "give a folder whose shards this user may read"
        ) from error


def _stray(path: str) -> str:
    left = path.rpartition("/")[2].startswith(".") and path.endswith(".tmp")
    return f"{quote(path)}: {'left by an interrupted write' if left else 'no shard, and not written by data_prep'}"


def _is_record(path: Path) -> bool:
    try:
        read_record(path)
    except (OSError, ValueError):
        return False
    return True


def _listed_by_name(job: Job | None) -> Callable[[str], int | None]:
    def listed(tar: str) -> int | None:
        number = tar[:-4].rpartition("-")[2]
        if job is None or not number.isdigit() or int(number) >= job.num_shards:
            return None
        return job.rows_in_shard(int(number))

    return listed
