"""Counts the bytes of tensors that are alive, and the operations that make them; on any device, meta too."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Storages made inside the context; those that existed before are not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        """Most bytes alive at once."""
        self.operations = 0
        """That are no views."""
        self._alive = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {id(one.untyped_storage()) for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        self.operations += not func.is_view
        for one in tree_leaves(result):
            if isinstance(one, torch.Tensor):
                storage = one.untyped_storage()
                if id(storage) not in inputs and storage not in self._seen:
                    self._seen.add(storage)
                    self._alive += storage.nbytes()
                    weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self._alive)
        return result

    def _free(self, size: int) -> None:
        self._alive -= size
