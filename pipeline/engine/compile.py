"""torch.compile as training needs it: whole graphs or an error, few of them, and none of a size that varies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")

Backend = str | Callable[..., Callable[..., object]]
"""What makes code of a graph: the name of one of torch's backends, or a function of (graph, example inputs)."""
INDUCTOR: Backend = "inductor"
"""torch's own, which writes Triton kernels on a GPU and C++ on a CPU."""


def compile_forward(module: nn.Module, *, backend: Backend = INDUCTOR) -> None:
    """Compile the module's forward in place, at its first call.

    In place, so that the names of its weights stay, as checkpoints and DeepSpeed need. Neither `engine.compile` nor
    `module.compile`, which compile the module's call: DeepSpeed's hook on it reads the clock, which breaks the graph in
    the third step. Its hooks on gradients lie outside of any graph; a compiled backward calls them all at its end.

    Args:
        backend: tests take a faster one, such as "aot_eager".
    """
    module.forward = compiled(module.forward, backend=backend)


def compiled(function: Callable[P, R], *, backend: Backend = INDUCTOR) -> Callable[P, R]:
    """The function compiled, at its first call; see `compile_forward`.

    Raises, when called: what torch.compile does of code that it cannot trace as one graph, and after too many graphs
        (`torch._dynamo.config.recompile_limit`); it never runs such code uncompiled.
    """
    return torch.compile(function, backend=backend, fullgraph=True, dynamic=False)


def compile_lane(
    model: nn.Module,
    targets: Callable[[Any], R],
    *,
    varying: Mapping[str, Sequence[int]],
    backend: Backend = INDUCTOR,
) -> Callable[[Any], R]:
    """Compile what a lane costs: the trained model's forward, in place, and the targets that are computed before it.

    Args:
        targets: computes a batch's targets, without gradient.
        varying: a batch's tensors by name, with their dimensions that differ between batches (see `let_vary`).

    Returns: what to call in place of `targets`, once a batch, before the forward.
    """
    compile_forward(model, backend=backend)
    compiled_targets = compiled(targets, backend=backend)

    def marked(batch: Any) -> R:
        for name, dims in varying.items():
            for dim in dims:
                let_vary(getattr(batch, name), dim)
        return compiled_targets(batch)

    return marked


def let_vary(tensor: Tensor, dim: int) -> None:
    """Make a dimension of this tensor a symbol of the graph that is compiled for it; mark every such input.

    Other sizes are constants of a graph. So graphs do not depend on which sizes came first: a run that resumes compiles
    the same ones.
    """
    torch._dynamo.mark_dynamic(tensor, dim)
