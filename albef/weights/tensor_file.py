"""Read and write files of tensors: .safetensors, and the .pth of the official layout.

Errors of the operating system are raised as OSError, also where the library raises another type, so that callers can
report a full disk as such.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from base.atomic_file import replacing

OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""Found in the message of a SafetensorError that the operating system caused."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors to `path`, which is replaced once all of them are written.

    safetensors writes a temporary file that only its owner may read (mode 0600) and renames it, and ignores the umask
    and the folder's access list; then no other user could read the file.

    Args:
        tensors: on the CPU; no two may share memory.
        metadata: texts for the file's header.

    Raises: OSError when it cannot be written; `path` is then unchanged.
    """
    with replacing(path) as unpublished:
        with unpublished.open("wb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        try:
            save_file(contiguous, unpublished, metadata=dict(metadata) if metadata else None)
        except SafetensorError as error:
            if (refused := OS_ERROR.search(str(error))) is None:
                raise
            number = int(refused[1])
            raise OSError(number, os.strerror(number), str(path)) from error
        if unpublished.stat().st_mode & 0o777 != mode:  # on a mount where all files have one mode, chmod may fail
            unpublished.chmod(mode)


def write_pickle(path: Path, values: Any) -> None:
    """`torch.save`, but a full disk, which its zip writer reports as "unexpected pos", raises OSError.

    Raises: OSError when it cannot be written; a part of the file may remain.
    """
    with path.open("wb") as file:
        watched: Any = _Watched(file)  # torch only needs write and flush
        try:
            torch.save(values, watched)
        except RuntimeError as error:
            if watched.problem is None:
                raise
            raise watched.problem from error


class _Watched:
    """A file that keeps the error of a write."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.problem: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.problem = error
            raise

    def flush(self) -> None:
        self._file.flush()


def read_tensors(path: Path, *, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """The tensors of a .safetensors file; on the "meta" device only their names and shapes, read from its header.

    Raises: OSError when the file cannot be opened, SafetensorError when it is damaged.
    """
    with path.open("rb"):  # safetensors reports every failure to open, also a lack of permission, as a missing file
        if torch.device(device).type == "meta":
            with safe_open(path, framework="pt") as file:
                return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118
        return load_file(path, device=str(device))
