"""A small disk that only one process sees, and that a test fills to the last byte: a tmpfs in a mount namespace."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.ranks import run_ranks

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_REC, MS_PRIVATE = 1, 16384, 1 << 18

libc = ctypes.CDLL(None, use_errno=True)


def run_on_small_disk(
    function: Callable[..., Any], folder: Path, *args: Any, mib: int, timeout_s: float = 200.0
) -> Any:
    """Call `function(folder, *args)` in its own process, for which `folder` is a disk of `mib` MiB.

    The disk goes with the process: what is to be seen of it is in what `function` returns. Where a user may not mount,
    the test is skipped; where CI=true it fails.
    """
    folder.mkdir(exist_ok=True)
    (result,) = run_ranks(_on_disk, 1, function, str(folder), args, mib, process_group=False, timeout_s=200.0)
    if isinstance(result, Refused):
        assert os.environ.get("CI") != "true", f"this machine lets nobody mount: {result}"
        pytest.skip(f"this machine lets nobody mount: {result}")
    return result


class Refused(str):
    """Why there is no disk."""


def _on_disk(_rank: int, _size: int, function: Callable[..., Any], folder: str, args: tuple[Any, ...], mib: int) -> Any:
    try:
        own_namespace()
        mount("tmpfs", folder, f"size={mib}m")
    except OSError as error:
        return Refused(error)
    return function(Path(folder), *args)


def own_namespace() -> None:
    """Take a mount namespace for this process, so that nobody else sees what it mounts."""
    user, group = os.geteuid(), os.getegid()
    _check(libc.unshare(CLONE_NEWNS if user == 0 else CLONE_NEWNS | CLONE_NEWUSER))
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))


def mount(kind: str, folder: str | Path, options: str = "", *, flags: int = 0) -> None:
    """mount(2). Raises: OSError."""
    _check(libc.mount(kind.encode(), os.fsencode(folder), kind.encode(), flags, options.encode()))


def unmount(folder: str | Path) -> None:
    """umount(2). Raises: OSError."""
    _check(libc.umount(os.fsencode(folder)))


def fill(disk: Path) -> Path:
    """Fill a disk to the last page; removing the file that is returned frees them again."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler


def _check(code: int) -> None:
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
