"""Read weight files (.safetensors, and .pth through torch's safe loader) and load them with nothing left over."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from albef.errors import CheckpointError
from albef.regular_file import check_readable, unreadable
from albef.weights.beside_weights import STAND_INS
from albef.weights.tensor_file import read_tensors
from samples.quote import quote

WRAPPERS = ("model", "state_dict", "model_state_dict", "module")
"""Keys under which training scripts put the weights: official ALBEF and DeiT use `model`, older timm
`state_dict`, DeepSpeed `module`."""
WRAPPED_MODULES = ("module.", "_orig_mod.")
"""Prefixes that DistributedDataParallel and torch.compile add to every name."""
NOT_WEIGHTS = (
    *(SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError),
    *(ValueError, KeyError, TypeError, AttributeError, IndexError),
)
"""Errors that safetensors, torch and the unpickler raise for files that hold no weights."""
FOREIGN = {
    b"<": "it is a web page, not weights",
    b"version https://git-lfs": "it is a pointer of git-lfs, not the file (fetch that with `git lfs pull`)",
    b"{": "it is a JSON text, not weights",
    b"\x1f\x8b": "it is compressed by gzip",
}
"""Files that a download may give instead of weights, by their first bytes."""


def read_weights(path: str | Path, *, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pth/.bin file, wrapped (`{"model": ...}`) or bare.

    A pickle is read with `weights_only=True`: a file from the web cannot run code here. Settings beside the weights
    are discarded (`albef.weights.beside_weights`).

    Args:
        device: device of the tensors; on "meta" only names and shapes are read.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something other than named tensors.
    """
    path = Path(path)
    check_readable(path, hint="check the path; a folder is not a weight file")
    try:
        if path.suffix == ".safetensors":
            content: object = read_tensors(path, device=device)
        else:
            with torch.serialization.safe_globals(STAND_INS):
                content = torch.load(path, map_location=device, weights_only=True)
    except OSError as error:
        raise unreadable(path, error, hint="copy the file again") from error
    except NOT_WEIGHTS as error:
        raise _why_unreadable(path, error) from error
    return unwrap(content, source=str(path))


def _why_unreadable(path: Path, error: Exception) -> CheckpointError:
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if what := next((what for first, what in FOREIGN.items() if start.startswith(first)), None):
        return CheckpointError(f"weight file {path} cannot be read: {what}", "fetch it again")
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return CheckpointError(
            f"weight file {path} cannot be read: it holds an object of {quote(found[1])}, which may run code",
            "where you trust the file, save its weights alone: "
            "torch.save(torch.load(FILE, weights_only=False)['model'], 'weights.pth')",
        )
    return CheckpointError(
        f"weight file {path} cannot be read: {first_line(error)}",
        "it is damaged, incomplete, or holds more than tensors; fetch it again or save its state dict alone",
    )


def unwrap(content: object, *, source: str) -> dict[str, Tensor]:
    """The state dict inside the object that a training script saved, without the prefixes of wrapped modules.

    Args:
        source: its name in errors.
    """
    for _ in range(3):  # {"model": {"state_dict": ...}} is the deepest form in use
        if isinstance(content, Mapping):
            inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
            content = inner[0] if inner else content
    if isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values()):
        state = {str(name): tensor for name, tensor in content.items()}
        while prefix := next((one for one in WRAPPED_MODULES if all(name.startswith(one) for name in state)), None):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        return state
    raise CheckpointError(
        f"{source} holds no state dict (names to tensors), bare or under {' or '.join(map(repr, WRAPPERS))}",
        "give a file saved by torch.save(model.state_dict()) or by the official training script",
    )


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load `state` into `module`, with every name and shape.

    Raises:
        CheckpointError: as `check_fit`; the module is then unchanged.
    """
    check_fit(module, state, source=source)
    module.load_state_dict(state)


def check_fit(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Raise a CheckpointError that lists the names which are missing or left over, or the shapes and types that differ.

    Args:
        module: may be on the meta device.
    """
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in state]
    check_names(missing=missing, unknown=[name for name in state if name not in wanted], source=source)
    check_shapes(state, {name: tensor.shape for name, tensor in wanted.items()}, source=source)
    whole = [f"{name} is {tensor.dtype}" for name, tensor in state.items() if not tensor.is_floating_point()]
    if whole:
        raise CheckpointError(
            f"{source} does not fit: {len(whole)} tensors are no floating-point numbers ({few(whole)})",
            "give the weights as they were trained; a quantised file is not read",
        )


def check_names(*, missing: Iterable[str], unknown: Iterable[str], source: str) -> None:
    """Raise a CheckpointError that lists the names that are missing or unknown, if there are any."""
    missing, unknown = list(missing), list(unknown)
    if missing or unknown:
        kinds = (("missing", missing), ("unknown", unknown))
        faults = [f"{len(names)} {kind} ({few(names)})" for kind, names in kinds if names]
        raise CheckpointError(
            f"{source} does not fit: {' and '.join(faults)}",
            "the file belongs to another model or another size; nothing was loaded",
        )


def check_shapes(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], *, source: str) -> None:
    """Raise a CheckpointError that lists the tensors of `state` whose shape is not the one in `shapes`."""
    wrong = [
        f"{name} is {tuple(state[name].shape)}, the model has {tuple(shape)}"
        for name, shape in shapes.items()
        if state[name].shape != shape
    ]
    if wrong:
        raise CheckpointError(
            f"{source} does not fit: {len(wrong)} shapes differ ({few(wrong, '; ')})",
            "choose the model size the file was made with",
        )


def few(items: list[str], separator: str = ", ", limit: int = 6) -> str:
    """The first few items of a list for a message, and the number of the others."""
    shown = quote(separator.join(items[:limit]), 160)
    return shown if len(items) <= limit else f"{shown}{separator}and {len(items) - limit} more"


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, safe for a terminal; torch's are a page long, and quote the file."""
    return quote(str(error).strip().split("\n", 1)[0] or type(error).__name__, 160)
