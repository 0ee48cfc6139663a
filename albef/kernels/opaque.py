"""Triton launches as single operations of a compiled graph."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def opaque(shapes: Callable[P, R]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function of tensors one operation in graphs of torch.compile; elsewhere a call of it stays a call.

    A compiled step then runs the same launches as one that is not, no matter what torch knows of Triton, and the number
    of masked tokens can vary: launches depend on sizes as numbers, which a traced graph would make constants.

    Args:
        shapes: takes the same arguments and returns new tensors of the result's shapes and types, of any values.

    Returns: a decorator for a function that changes no argument and returns new tensors. Its annotations become the
        operation's schema: Tensor, Tensor | None, list[Tensor] or a tuple of tensors.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        module = function.__module__.rpartition(".")[2]
        operation = torch.library.custom_op(f"albef::{module}_{function.__name__}", function, mutates_args=())
        operation.register_fake(shapes)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if torch.compiler.is_compiling():
                found: R = operation(*args, **kwargs)
                return found
            return function(*args, **kwargs)

        return call

    return decorate
