"""Counts what a step asks of the device: operations that reach a kernel, and waits of the host for a result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

NO_KERNEL = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten._unsafe_view}
"""Besides views: they allocate, or only give a shape."""
WAITS = {aten._local_scalar_dense, aten.equal, aten.masked_select, aten.nonzero, aten._unique2, aten.unique_dim}
"""The host needs their result, or its size, before it can continue."""
READS = {Tensor.tolist, Tensor.numpy, Tensor.cpu}
"""Copies to the host from Python; on a CPU no operation shows them."""


class StepCounter:
    """Counts by part of the step; call it with the name of the part that begins. Use as a context manager.

    On a CPU every tensor is the host's, so host_waits counts reads of the optimizer's step numbers too.
    """

    def __init__(self) -> None:
        self.operations: Counter[str] = Counter()
        """Operations of torch that reach a kernel, and collectives, by part."""
        self.host_waits: Counter[str] = Counter()
        self._part = ""
        self._modes = (_Operations(self), _Reads(self))

    def __call__(self, part: str) -> None:
        self._part = part

    def __enter__(self) -> StepCounter:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    def count(self, operation: Any) -> None:
        """Note an operation that is about to run."""
        packet = operation.overloadpacket
        if not operation.is_view and packet not in NO_KERNEL:
            self.operations[self._part] += 1
        if packet in WAITS:
            self.host_waits[self._part] += 1

    def count_read(self) -> None:
        """Note a copy to the host."""
        self.host_waits[self._part] += 1


class _Operations(TorchDispatchMode):
    def __init__(self, counter: StepCounter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counter.count(func)
        return func(*args, **(kwargs or {}))


class _Reads(TorchFunctionMode):
    def __init__(self, counter: StepCounter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS:
            self.counter.count_read()
        return func(*args, **(kwargs or {}))
