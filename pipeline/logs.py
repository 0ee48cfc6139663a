"""Where log lines go: rank 0 to the console, every rank to its own file, warnings of other ranks to the console too."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from samples.quote import printable

LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
OWNERS = ("albef", "pipeline")


class _Printable(logging.Formatter):
    """Records without control characters; lines after the first, as of a traceback, are indented."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def setup_console(rank: int = 0, *, debug: bool = False) -> None:
    """Send our log to stderr: everything from rank 0, warnings with the rank in front from the others.

    DeepSpeed's logger, which writes to stdout, is turned to stderr and to warnings, so that a command's stdout holds
    the command's answer only.
    """
    os.environ.setdefault("DS_LOG_LEVEL", "warning")
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel((logging.DEBUG if debug else logging.INFO) if rank == 0 else logging.WARNING)
    front = "" if rank == 0 else f"[rank {rank}] "
    handler.setFormatter(_Printable(front + "%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    for name in OWNERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG if debug else logging.INFO)
        logger.propagate = False
        for old in [old for old in logger.handlers if type(old) is logging.StreamHandler]:
            logger.removeHandler(old)
        logger.addHandler(handler)


def add_file(path: Path) -> logging.Handler:
    """Copy this rank's log, DeepSpeed's and Python's warnings included, to a file, after what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Printable(LINE))
    logging.captureWarnings(True)
    for name in (*OWNERS, "DeepSpeed", "py.warnings"):
        logging.getLogger(name).addHandler(handler)
    for name in OWNERS:
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.INFO)
    return handler


def remove(handler: logging.Handler) -> None:
    """Close a handler that `add_file` made."""
    for name in (*OWNERS, "DeepSpeed", "py.warnings"):
        logging.getLogger(name).removeHandler(handler)
    handler.close()


def quiet_deepspeed() -> None:
    """Turn DeepSpeed's logger, which writes INFO to stdout, to warnings on stderr. Call once it is imported."""
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(logging.WARNING)
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler and handler.stream is sys.stdout:
            handler.setStream(sys.stderr)


def job_name(environment: Mapping[str, str]) -> str:
    """The folder of this start's log files: Slurm's job id, else `local`."""
    return environment.get("SLURM_JOB_ID") or "local"
