"""Ends a worker process when the process that started it is gone, however that ended."""

from __future__ import annotations

import os
import signal
import threading
import time

_watching = False


def end_with_parent(parent: int, *, whole_group: bool = False) -> None:
    """Watch the parent from a thread; once it is gone, kill this process (or its process group) at once.

    Python's pools leave their workers waiting for ever when the parent is killed with -9.

    Args:
        parent: its process id as the parent passed it on; `os.getppid()` might return that of init already.
    """
    global _watching
    if _watching:
        return
    _watching = True

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        if whole_group:
            os.killpg(os.getpgid(0), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()
