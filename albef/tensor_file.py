"""Reading and writing .safetensors files: whole or not at all, and as open to others as the umask says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors to `path`, which is replaced when all of them are written.

    safetensors writes a temporary file that only its owner may read (mode 0600) and renames it, whatever the umask and
    the folder's access list say; nobody else could then read the file.

    Args:
        tensors: on the CPU; no two may share memory.
        metadata: texts for the file's header.

    Raises: OSError or SafetensorError when it cannot be written; `path` is then as it was.
    """
    unpublished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unpublished.open("wb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, unpublished, metadata=dict(metadata) if metadata else None)
        if unpublished.stat().st_mode & 0o777 != mode:  # where all files have one mode, a mount may refuse to set it
            unpublished.chmod(mode)
        os.replace(unpublished, path)
    finally:
        unpublished.unlink(missing_ok=True)


def read_tensors(path: Path, *, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """The tensors of a .safetensors file; on the "meta" device their names and shapes, read from its header alone.

    Raises: OSError when the file cannot be opened, SafetensorError when it is damaged.
    """
    with path.open("rb"):  # safetensors reports every failure to open, also a lack of permission, as a missing file
        if torch.device(device).type == "meta":
            with safe_open(path, framework="pt") as file:
                return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118
        return load_file(path, device=str(device))
