"""AdamW in one pass over memory on the CPU, with the same bits however ZeRO cuts the parameters into partitions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.adamw import adamw

VECTOR = 16
"""Elements that torch's CPU kernel takes at once at most (AVX-512, fp32); narrower vectors divide it."""


class VectorAdamW(torch.optim.AdamW):
    """torch's fused AdamW for fp32 tensors on a CPU; state and settings are `torch.optim.AdamW`'s.

    The plain form makes a temporary of the size of the parameters at each of its operations. The fused kernel makes
    none, but it takes the last few elements of a tensor one by one, which rounds differently from its vectors: weights
    would depend on where ZeRO cuts its partitions, that is, on the number of ranks. So the elements after the last
    whole vector are stepped in a vector of their own, filled up with zeros.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step with the gradients that are there; parameters without one keep weight, moments and step count."""
        assert closure is None, "losses are not computed again here"
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            pieces: list[list[Tensor]] = []  # of a step: weight, gradient, first moment, second moment, step count
            tails: list[tuple[list[Tensor], list[Tensor]]] = []
            for parameter in parameters:
                state = self._state_of(parameter)
                whole = [parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"]]
                flat = [tensor.view(-1) for tensor in whole]
                end = len(flat[0]) - len(flat[0]) % VECTOR
                if end:
                    pieces.append([*(tensor[:end] for tensor in flat), state["step"]])
                if end < len(flat[0]):
                    tail = [tensor[end:] for tensor in flat]
                    vector = [F.pad(tensor, (0, VECTOR - len(tensor))) for tensor in tail]
                    tails.append((tail, vector))
                    # a parameter's two pieces share its step count, which the call below moves once for each
                    pieces.append([*vector, state["step"].clone() if end else state["step"]])
            if not pieces:
                continue
            weights, gradients, first, second, steps = (list(column) for column in zip(*pieces, strict=True))
            beta1, beta2 = group["betas"]
            adamw(
                weights,
                gradients,
                first,
                second,
                [],
                steps,
                fused=True,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )
            for tail, (weight, _, exp_avg, exp_avg_sq) in tails:
                for ours, stepped in zip((tail[0], tail[2], tail[3]), (weight, exp_avg, exp_avg_sq), strict=True):
                    ours.copy_(stepped[: len(ours)])

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        """The parameter's state, made at its first step."""
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state
