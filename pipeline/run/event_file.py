"""TensorBoard's event file of one start, written through a RetryingFile.

torch's SummaryWriter writes in one of TensorBoard's threads. The first failed write ends that thread, and the next call
then raises in the run. Here each event is a record in a file that we write: torch makes the summaries, TensorBoard
frames them.
"""

from __future__ import annotations

import io
import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from pipeline.run.retrying_file import RetryingFile


class EventFile:
    """Scalars, images and texts by step.

    Args:
        folder: TensorBoard's log folder of the run; created if it does not exist.
        purge_step: TensorBoard hides the events that earlier files of the folder hold for this step and later ones.

    Raises: OSError when the file cannot be created.
    """

    def __init__(self, folder: Path, *, purge_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = RetryingFile(folder / _next_name(folder))
        version = Event(wall_time=time.time(), step=purge_step, file_version="brain.Event:2")
        start = Event(wall_time=time.time(), step=purge_step, session_log=SessionLog(status=SessionLog.START))
        self._file.write(_record(version) + _record(start))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curve of each name."""
        self._add(step, *(summary.scalar(name, value) for name, value in values.items()))

    def image(self, tag: str, picture: Any, step: int) -> None:
        """Add an image, (H, W, 3) uint8 or float in [0, 1]."""
        self._add(step, summary.image(tag, picture, dataformats="HWC"))

    def text(self, tag: str, words: str, step: int) -> None:
        """Add a text (Markdown)."""
        printable = words.encode("utf-8", "backslashreplace").decode()  # JSON can hold half a surrogate pair
        self._add(step, summary.text(tag, printable))

    def close(self) -> None:
        """Write the records that could not be written so far, if there is room now."""
        self._file.close()

    def _add(self, step: int, *summaries: Any) -> None:
        now = time.time()
        self._file.append(b"".join(_record(Event(wall_time=now, step=step, summary=each)) for each in summaries))


def _record(event: Event) -> bytes:
    """An event as TensorBoard frames it: length, data and their checksums."""
    buffer = io.BytesIO()
    RecordWriter(buffer).write(event.SerializeToString())
    return buffer.getvalue()


def _next_name(folder: Path) -> str:
    """A name after those of earlier starts: TensorBoard reads the files in the order of their names.

    The number is the time in seconds; after a clock was set back, one more than the newest file's.
    """
    numbers = [re.match(r"events\.out\.tfevents\.(\d{10})\.", name) for name in os.listdir(folder)]
    newest = max((int(number[1]) for number in numbers if number), default=0)
    return f"events.out.tfevents.{max(int(time.time()), newest + 1):010d}.{socket.gethostname()}.{os.getpid()}.0"
