"""Where log lines go: rank 0 to the console, every rank to its own file, warnings of other ranks to the console too."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from albef.errors import ConfigError
from base.standard_streams import print_to_stderr
from pipeline.run.retrying_file import RetryingFile, reason
from samples.quote import printable, visible

LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
OWNERS = ("albef", "pipeline")


class _Printable(logging.Formatter):
    """Records without control characters; lines after the first, as of a traceback, are indented."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class Console(logging.StreamHandler[TextIO]):
    """stderr, which may be a file on a full disk, or a closed terminal. Lines that cannot be written are counted."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; after lost lines, also report how many they were."""
        before, self._lost = self._lost, 0
        super().emit(record)
        if self._lost:
            self._lost += before
        elif before:
            print_to_stderr(f"{before} lines before this one were not written in time; the run folder's logs have them")

    def handleError(self, record: logging.LogRecord) -> None:  # logging's name
        """Count a line that cannot be written; logging's own traceback could not be written either."""
        if isinstance(sys.exception(), OSError):
            self._lost += 1
        else:
            super().handleError(record)


class FileLog(logging.Handler):
    """A log file that survives a full disk."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = RetryingFile(path)
        self._file.write(b"")  # raises OSError when the file cannot be created

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            line = self.format(record)
        except Exception:  # a log call whose arguments do not fit its message: a bug, reported as logging does
            self.handleError(record)
            return
        self._file.append(f"{line}\n".encode(errors="backslashreplace"))

    def close(self) -> None:
        """Write the records that could not be written so far, if there is room now."""
        super().close()
        self._file.close()


def setup_console(rank: int = 0, *, debug: bool = False) -> None:
    """Send our log to stderr: everything from rank 0, warnings with the rank in front from the others.

    DeepSpeed's logger, which writes to stdout, is limited to warnings, so that stdout holds only a command's result.
    """
    os.environ.setdefault("DS_LOG_LEVEL", "warning")
    handler = Console()
    handler.setLevel((logging.DEBUG if debug else logging.INFO) if rank == 0 else logging.WARNING)
    front = "" if rank == 0 else f"[rank {rank}] "
    handler.setFormatter(_Printable(front + "%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    for name in OWNERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG if debug else logging.INFO)
        logger.propagate = False
        for old in [old for old in logger.handlers if type(old) is Console]:
            logger.removeHandler(old)
        logger.addHandler(handler)


def add_file(path: Path) -> logging.Handler:
    """Append this rank's log, including warnings of DeepSpeed and Python, to a file.

    Raises: OSError when the file cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = FileLog(path)
    handler.setFormatter(_Printable(LINE))
    logging.captureWarnings(True)
    for name in (*OWNERS, "DeepSpeed", "py.warnings"):
        logging.getLogger(name).addHandler(handler)
    for name in OWNERS:
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.INFO)
    return handler


def print_error(message: str, hint: str, *, rank: int = 0) -> None:
    """Print `error:` and `hint:` to stderr, with the rank in front if it is not 0."""
    front = f"[rank {rank}] " if rank else ""
    print_to_stderr(f"{front}error: {printable(message)}\n{front}hint: {printable(hint)}")


def print_answer(text: str) -> None:
    """Print a command's result to stdout.

    Raises: BrokenPipeError when the reader has closed the pipe, ConfigError when it cannot be written.
    """
    try:
        sys.stdout.write(f"{visible(text)}\n")  # at once, also unbuffered: `| grep -q` leaves after the line it wants
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError(
            f"the answer cannot be written to standard output: {reason(error)}", "make room there, or name another file"
        ) from error


def remove(handler: logging.Handler) -> None:
    """Close a handler that `add_file` made."""
    for name in (*OWNERS, "DeepSpeed", "py.warnings"):
        logging.getLogger(name).removeHandler(handler)
    handler.close()


def job_name(environment: Mapping[str, str]) -> str:
    """The folder of this start's log files: Slurm's job id, else `local`."""
    return environment.get("SLURM_JOB_ID") or "local"
