"""A folder for the sockets of multiprocessing. Their paths may have 107 bytes; TMPDIR is longer on many clusters.

Sockets without a path ("abstract") have no such limit, but every user of the machine may connect to them, and the fork
server runs any code that it receives (CVE-2022-42919).
"""

from __future__ import annotations

import os
import socket
import tempfile
from multiprocessing import process, util

from albef.errors import ConfigError

ELSEWHERE = ("/tmp", "/var/tmp", "/dev/shm")
SOCKET_NAME = "listener-12345678"
"""A name as long as those that multiprocessing chooses."""


def settle() -> None:
    """Create the folder where multiprocessing looks for it, unless it exists; the workers inherit it.

    Raises: ConfigError when neither TMPDIR nor one of `ELSEWHERE` can hold a socket.
    """
    if process.current_process()._config.get("tempdir"):  # type: ignore[attr-defined]
        return
    problems = []
    for folder in (_temporary(), *ELSEWHERE):
        try:
            _try_a_socket(folder)
        except OSError as error:
            problems.append(f"{folder}: {error.strerror or error}")
            continue
        before, tempfile.tempdir = tempfile.tempdir, folder
        try:
            util.get_temp_dir()
        finally:
            tempfile.tempdir = before
        return
    raise ConfigError(
        f"no folder can hold the sockets of data workers: {'; '.join(problems)}",
        "set TMPDIR to a writable folder of this machine whose path has at most 75 characters, or data.num_workers 0",
    )


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # none of the folders that Python tries is writable
        return os.environ.get("TMPDIR", ELSEWHERE[0])


def _try_a_socket(folder: str) -> None:
    """Raises: OSError when a private folder in `folder` cannot be created, or cannot hold a socket."""
    with tempfile.TemporaryDirectory(prefix="pymp-", dir=folder) as private, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.join(private, SOCKET_NAME))
