"""The processes that started this rank; the rank ends when one of them is killed.

A launcher that is killed with -9 cannot stop its ranks. They would continue to train unwatched, beside those of the
next start. A thread of every rank checks once a second whether its launchers are alive. A rank that a person started by
hand has none: the shell may exit, and the run continues.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.exit_codes import LOST
from pipeline.run import logs
from pipeline.watch.heartbeat_wire import Process

log = logging.getLogger(__name__)

VARIABLE = "ALBEF_LAUNCHERS"
"""Set by slurm/lib.sh: the namespace of process ids, then the ids of the script (if it runs on this machine), of
torchrun or Slurm's step, and of the shell around the rank."""
POLL_S = 1.0
FIRST_S = 1.5
"""The other ranks of a machine wait this long, so that its first one prints the reason; torchrun then ends them."""
LAST_RESORT_S = 5.0
"""Time limit for the message: the log's disk may not respond, or a stuck main thread may hold its lock."""

_launchers: list[Process] = []


def watch() -> None:
    """End this process with LOST when one of its launchers dies. Only the first call starts the thread."""
    if _launchers:
        return
    _launchers.extend(launchers(os.environ))
    if _launchers:
        threading.Thread(target=_watch, name="launcher", daemon=True).start()


def launchers(environment: Mapping[str, str]) -> list[Process]:
    """The processes that must be alive: those named by slurm/lib.sh, torchrun's agent, Slurm's step."""
    namespace, *numbers = environment.get(VARIABLE, "").split() or [""]
    # In a container the script's ids belong to other processes, or to none.
    pids = [int(number) for number in numbers] if namespace and namespace == _pid_namespace() else []
    if "TORCHELASTIC_RUN_ID" in environment:
        pids.append(_ancestor(lambda pid: not _started_with(pid, b"TORCHELASTIC_RUN_ID=")))
    elif "SLURM_STEP_ID" in environment:
        pids.append(_ancestor(lambda pid: _name_of(pid) == b"slurmstepd"))
    return [Process.of(pid) for pid in dict.fromkeys(pids) if pid > 1]


def leave_if_lost() -> None:
    """End this process if a launcher was killed. Called before a rank is blamed, which may have noticed it first."""
    lost = next((process for process in _launchers if not process.is_here()), None)
    if lost is None:
        return
    last_resort = threading.Timer(LAST_RESORT_S, os._exit, (LOST,))
    last_resort.daemon = True
    last_resort.start()
    try:
        message = f"the launcher of this rank is gone: process {lost.pid} on {lost.host} was killed"
        log.info("%s", message)
        if (os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0") != "0":
            time.sleep(FIRST_S)
        else:
            logs.print_error(message, "the same command resumes from the last checkpoint")
        logging.shutdown()
    finally:  # the terminal or the pipe may have closed with the launcher
        os._exit(LOST)


def _watch() -> None:
    while True:
        leave_if_lost()
        time.sleep(POLL_S)


def _ancestor(wanted: Callable[[int], bool]) -> int:
    """The nearest ancestor of this process that is `wanted`; 0 if there is none, or it cannot be read."""
    pid = os.getppid()
    try:
        while pid > 1 and not wanted(pid):
            pid = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return 0
    return pid


def _started_with(pid: int, variable: bytes) -> bool:
    """Whether a process was started with a variable that starts with these bytes, as torchrun's ranks are."""
    return any(entry.startswith(variable) for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))


def _name_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/comm").read_bytes().strip()


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
