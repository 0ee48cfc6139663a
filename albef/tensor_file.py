"""Reading and writing files of tensors: .safetensors, and the .pth of the official layout.

What the operating system refuses is an OSError here, whatever the library makes of it, so that callers can report a
full disk as one.
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

OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""In the message of a SafetensorError that the operating system caused."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors to `path`, which is replaced when all of them are written.

    safetensors writes a temporary file that only its owner may read (mode 0600) and renames it, whatever the umask and
    the folder's access list say; nobody else could then read the file.

    Args:
        tensors: on the CPU; no two may share memory.
        metadata: texts for the file's header.

    Raises: OSError when it cannot be written; `path` is then as it was.
    """
    unpublished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
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
        if unpublished.stat().st_mode & 0o777 != mode:  # where all files have one mode, a mount may refuse to set it
            unpublished.chmod(mode)
        os.replace(unpublished, path)
    finally:
        unpublished.unlink(missing_ok=True)


def write_pickle(path: Path, values: Any) -> None:
    """`torch.save`, whose zip writer reports a full disk as "unexpected pos".

    Raises: OSError when it cannot be written; half of the file may be left.
    """
    with path.open("wb") as file:
        watched: Any = _Watched(file)  # torch asks for no more than write and flush
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
    """The tensors of a .safetensors file; on the "meta" device their names and shapes, read from its header alone.

    Raises: OSError when the file cannot be opened, SafetensorError when it is damaged.
    """
    with path.open("rb"):  # safetensors reports every failure to open, also a lack of permission, as a missing file
        if torch.device(device).type == "meta":
            with safe_open(path, framework="pt") as file:
                return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118
        return load_file(path, device=str(device))
