"""The dump of a skipped step: written by every rank of the run, read by `replay`.

RUN/skipped/step_00000124/ holds, for each rank, rank_R.json (which lanes, keys, captions, losses, what was not finite,
the names of the random draws, versions) and rank_R.safetensors (the batches, lane by lane, as the step saw them). The
step is counted from 1, as in the log and in the names of checkpoints: after it, 124 steps are done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from albef.errors import DataError
from albef.weights.tensor_file import read_tensors, write_tensors
from base import atomic_file
from samples.json_text import parse_json
from samples.plain_file import read_plain
from samples.quote import quote

FORMAT = 1
MAX_BYTES = 64 << 20
"""Of a rank's JSON: keys and captions of its lanes."""
COUNTS = ("step", "index", "epoch", "world_size", "in_a_row")
FACTS: dict[str, Any] = dict.fromkeys(COUNTS, int) | {
    "seed": int,
    "gradient_norm": (int, float, str),
    "batches": (str, type(None)),
    "lanes": list,
}
"""What is read of a rank's JSON again, and its types; numbers that are not finite are words."""
PART = re.compile(r"\.?rank_[0-9]+\.(json|safetensors)(\.[0-9]+)?(\.tmp)?")
"""What a rank writes of a dump, and what a kill leaves of that."""


@dataclass(frozen=True, kw_only=True)
class Dump:
    """A skipped step as all of its ranks left it."""

    path: Path
    facts: dict[str, Any]
    """What rank 0 wrote; `lanes` is of all ranks, each with `lane`, `losses`, `keys`, `captions`."""
    batches: dict[int, dict[str, Any]]
    """By lane, the fields of its batch: tensors, and the lists `keys` and `captions`."""

    @property
    def step(self) -> int:
        """Counted from 1."""
        return self.facts["step"]


def write_dump(
    folder: Path,
    facts: Mapping[str, Any],
    losses: Mapping[int, Mapping[str, float]],
    batches: Mapping[int, Any],
    *,
    rank: int,
    with_batches: bool,
) -> None:
    """This rank's part of a dump; the JSON last, so that a part with one is whole.

    Args:
        facts: of the step.
        losses: by lane, then by name.
        batches: by lane, on the host; with_batches keeps their tensors, else it is their keys and captions only.

    Raises: OSError or SafetensorError when it cannot be written.
    """
    tensors = f"rank_{rank}.safetensors"
    lanes = [
        {
            "lane": lane,
            "losses": dict(losses[lane]),
            "keys": batch.keys,
            "captions": batch.captions,
        }
        for lane, batch in batches.items()
    ]
    values = {"format": FORMAT, **facts, "rank": rank, "batches": tensors if with_batches else None, "lanes": lanes}
    try:
        if with_batches:
            write_tensors(
                folder / tensors,
                {f"lane_{lane}.{name}": value for lane, batch in batches.items() for name, value in _tensors_of(batch)},
            )
        atomic_file.write_json(folder / f"rank_{rank}.json", plain(values))
    except (OSError, SafetensorError):
        with contextlib.suppress(OSError):  # a half takes room on a full disk, and counts as a dump with batches
            (folder / tensors).unlink(missing_ok=True)
        raise


def remove_dump(folder: Path) -> None:
    """Remove the files of a dump from its folder; what else lies there stays.

    Raises: OSError when they cannot be removed.
    """
    for path in folder.iterdir():
        if PART.fullmatch(path.name) and not path.is_symlink():
            path.unlink()


def read_dump(path: Path) -> Dump:
    """Every rank's part of a skipped step.

    Raises: DataError when it is no dump, a rank's part is missing or unreadable, or the batches were not kept.
    """
    if not (path / "rank_0.json").is_file():
        there = sorted(str(part.parent) for part in path.glob("**/skipped/step_*/rank_0.json"))
        raise DataError(
            f"{path} is not the dump of a skipped step: it has no rank_0.json",
            f"there is {', '.join(there[-3:])}" if there else "give a folder skipped/step_* of a run",
        )
    try:
        facts = _read_part(path, 0)
        lanes, batches = [], {}
        for rank in range(facts["world_size"]):
            part = _read_part(path, rank)
            if part["batches"] is None:
                raise DataError(
                    f"{path} holds the sample keys but not their batches",
                    "the run had kept watch.max_dumps others already: replay one of those, or raise it",
                )
            tensors = read_tensors(path / f"rank_{rank}.safetensors")
            for lane in part["lanes"]:
                front = f"lane_{lane['lane']}."
                own = {name.removeprefix(front): tensor for name, tensor in tensors.items() if name.startswith(front)}
                batches[lane["lane"]] = own | {"keys": lane["keys"], "captions": lane["captions"]}
                lanes.append(lane)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read: {quote(error)}", "replay another skipped step of the run") from None
    return Dump(path=path, facts=facts | {"lanes": lanes}, batches=batches)


def skipped_in_a_row(dump: Path) -> int:
    """How many steps in a row were skipped up to that one; 0 when it was not, or its dump is damaged."""
    try:
        return _read_part(dump, 0)["in_a_row"]
    except (OSError, ValueError):
        return 0


def _read_part(dump: Path, rank: int) -> dict[str, Any]:
    """A rank's JSON, with what is read of it later being of the types that `write_dump` wrote.

    Raises: OSError when it cannot be read, ValueError naming what is damaged.
    """
    name = f"rank_{rank}.json"
    values = parse_json(read_plain(dump / name, MAX_BYTES))
    if not isinstance(values, dict):
        raise ValueError(f"{name} is not an object")
    for key, kinds in FACTS.items():
        if not isinstance(values.get(key), kinds) or isinstance(values[key], bool):
            raise ValueError(f"{name}: {key} is {quote(values.get(key))}")
    if any(values[key] < 0 for key in COUNTS):
        raise ValueError(f"{name}: a count is negative")
    for lane in values["lanes"]:
        if not isinstance(lane, dict) or not isinstance(lane.get("lane"), int):
            raise ValueError(f"{name}: a lane has no number")
        if not isinstance(lane.get("losses"), dict):
            raise ValueError(f"{name}: lane {lane['lane']} has no losses")
        for texts in (lane.get("keys"), lane.get("captions")):
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise ValueError(f"{name}: lane {lane['lane']} has no keys or captions")
    return values


def bad_losses(losses: Mapping[int, Mapping[str, float]]) -> list[str]:
    """`lane 3: loss_itm nan` for every loss that is not finite; the total only where no part of it is to blame.

    Args:
        losses: by lane, then by name.
    """
    found = []
    for lane, row in losses.items():
        bad = [(name, value) for name, value in row.items() if not math.isfinite(value)]
        found += [f"lane {lane}: {name} {value}" for name, value in [pair for pair in bad if pair[0] != "loss"] or bad]
    return found


def plain(value: Any) -> Any:
    """The same value with numbers that JSON does not know as words: nan, inf, -inf."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _tensors_of(batch: Any) -> list[tuple[str, Tensor]]:
    """The batch's tensors by field, on the CPU."""
    values = [(field.name, getattr(batch, field.name)) for field in dataclasses.fields(batch)]
    return [(name, value.detach().cpu()) for name, value in values if isinstance(value, Tensor)]
