"""`progress.json` in a part's work folder: what a process that makes shards is doing, for `data_prep status`.

The process writes it every few seconds; anyone who sees the folder can read it. A killed process leaves the file as it
was: its age is all that a reader on another machine can know.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from base.errors import UserError
from data_prep.output.job import Folder, write_json
from data_prep.output.ownership import remove_leftovers

WRITE_EVERY_S = 2.0
SILENT_AFTER_S = 20.0  # ten writes missed: more than a busy file system or a difference of clocks explains
FILE_NAME = "progress.json"


@dataclass(frozen=True, kw_only=True)
class PartState:
    """What a part reports."""

    part: str
    """I/N; 1/1 for a job that is not cut into parts."""
    pid: int
    host: str
    state: str
    """reading the list, making shards, verifying, finished, or stopped."""
    started: str
    """ISO 8601, UTC, as all times here."""
    written: str
    changed: str
    """When a row was last answered, or the state changed."""
    shards: int = 0
    shards_finished: int = 0
    rows: int = 0
    rows_finished: int = 0
    """Rows in finished shards, those of earlier runs included."""
    rows_answered: int = 0
    """`rows_finished`, and the answered rows of shards that are being made."""
    kept: int = 0
    rate: float = 0.0
    """Rows per second since this process began to make shards."""
    restarts: int = 0
    """Starts of img2dataset after the first."""
    error: str = ""
    """Why it stopped."""

    @property
    def number(self) -> int:
        return int(self.part.partition("/")[0])

    @property
    def count(self) -> int:
        return int(self.part.partition("/")[2])

    @property
    def ended(self) -> bool:
        return self.state in ("finished", "stopped")

    def silent_s(self, now: datetime) -> float:
        """Seconds since the file was written; 0 for a part that has ended or writes on time."""
        silence = (now - datetime.fromisoformat(self.written)).total_seconds()
        return silence if silence > SILENT_AFTER_S and not self.ended else 0.0

    def left_s(self) -> float | None:
        """Seconds to the part's end at its rate; None while no rate is known."""
        return (self.rows - self.rows_answered) / self.rate if self.rate > 0 else None


class PartProgress:
    """Keeps a part's `progress.json`, as a context manager: an exception leaves the state `stopped` and its reason."""

    def __init__(self, folder: Folder) -> None:
        self._path = folder.work / FILE_NAME
        now = _now()
        self._state = PartState(
            part=str(folder.part),
            pid=os.getpid(),
            host=socket.gethostname(),
            state="reading the list",
            started=now,
            written=now,
            changed=now,
        )
        self._lock = threading.Lock()
        self._making_since = 0.0
        self._rows_before = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write_now_and_then, name="part_progress", daemon=True)

    def begin(self, *, shards: int, rows: int, rows_before: int) -> None:
        """Report that shards are being made from now on; earlier runs answered `rows_before` of the part's rows."""
        self._making_since, self._rows_before = time.monotonic(), rows_before
        self._change(state="making shards", shards=shards, rows=rows)

    def update(self, *, shards_finished: int, rows_finished: int, rows_answered: int, kept: int) -> None:
        """Record how far the part is. Cheap: the thread writes the file."""
        elapsed = max(time.monotonic() - self._making_since, 1e-9)
        counts: dict[str, Any] = {
            "shards_finished": shards_finished,
            "rows_finished": rows_finished,
            "rows_answered": rows_answered,
            "kept": kept,
        }
        moved = any(getattr(self._state, name) != count for name, count in counts.items())
        with self._lock:
            self._state = dataclasses.replace(
                self._state,
                **counts,
                rate=round((rows_answered - self._rows_before) / elapsed, 3),
                changed=_now() if moved else self._state.changed,
            )

    def restarted(self) -> None:
        """Record that img2dataset was started again."""
        self._change(restarts=self._state.restarts + 1)

    def verifying(self) -> None:
        self._change(state="verifying")

    def __enter__(self) -> PartProgress:
        remove_leftovers(self._path.parent, FILE_NAME.__eq__)
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if error is None:
            self._change(state="finished")
        else:
            why = error.message if isinstance(error, UserError) else str(error) or type(error).__name__.lstrip("_")
            self._change(state="stopped", error=why)

    def _change(self, **fields: Any) -> None:
        with self._lock:
            self._state = dataclasses.replace(self._state, changed=_now(), **fields)
        self._write()

    def _write(self) -> None:
        with self._lock:
            write_json(self._path, dataclasses.asdict(dataclasses.replace(self._state, written=_now())))

    def _write_now_and_then(self) -> None:
        while not self._over.wait(WRITE_EVERY_S):
            try:
                self._write()
            except OSError:  # a full disk: the writers of the shards report it, and this file only gets old
                continue


def read_states(folder: Folder) -> list[PartState]:
    """What each part of a folder reports, by number; parts of an earlier cut into another number come last."""
    states = list(_states(folder.all_work))
    if not states:
        return []
    newest = max(states, key=lambda state: state.written).count
    return sorted(states, key=lambda state: (state.count != newest, state.count, state.number))


def _states(work: Path) -> Iterator[PartState]:
    for path in (work / FILE_NAME, *work.glob(f"part-*/{FILE_NAME}")):
        try:
            yield PartState(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):  # no such file, or one of another version
            continue


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
