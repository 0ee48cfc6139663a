"""The contrastive loss as the paper writes it: all scores, both softmaxes, the mixed targets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from albef.kernels.dispatch import Impl
from albef.kernels.itc import itc_loss

ROUNDING = 2.0**-24
"""Of fp32, relative."""

CASES: dict[str, dict[str, Any]] = {
    "one row, no queue": {"size": 1, "queue": 0, "dim": 8},
    "less than a tile": {"size": 3, "queue": 10, "dim": 24},
    "odd": {"size": 33, "queue": 101, "dim": 24},
    "the paper's width": {"size": 33, "queue": 300, "dim": 256},
    "coldest": {"size": 33, "queue": 101, "dim": 24, "temperature": 0.001},
    "warmest": {"size": 3, "queue": 101, "dim": 256, "temperature": 0.5},
    "all rows alike": {"size": 33, "queue": 70, "dim": 8, "alike": True},
    "alpha 0": {"size": 3, "queue": 65, "dim": 8, "alpha": 0.0},
    "alpha 1": {"size": 3, "queue": 65, "dim": 8, "alpha": 1.0},
    "hard": {"size": 33, "queue": 101, "dim": 24, "soft": False},
    "hard, cold, no queue": {"size": 33, "queue": 0, "dim": 24, "soft": False, "temperature": 0.001},
    "several positives": {"size": 33, "queue": 101, "dim": 24, "images": 20},
    "several positives, hard": {"size": 33, "queue": 0, "dim": 24, "images": 5, "soft": False},
    "bf16": {"size": 33, "queue": 101, "dim": 24, "dtype": torch.bfloat16},
}
"""Arguments of `make_case`."""


@dataclass(frozen=True)
class Case:
    """Inputs of one direction."""

    feat: Tensor
    keys: Tensor
    queue: Tensor | None
    temperature: Tensor
    teacher: Tensor | None
    alpha: float
    ids: tuple[Tensor, Tensor | None] | None = None

    def to(self, dtype: torch.dtype) -> Case:
        """The same numbers in another type."""
        wide: dict[str, Any] = {name: None if one is None else one.to(dtype) for name, one in self._tensors().items()}
        return dataclasses.replace(self, **wide)

    def on(self, device: str) -> Case:
        """The same on a device."""
        moved: dict[str, Any] = {name: None if one is None else one.to(device) for name, one in self._tensors().items()}
        batch, queue = self.ids or (None, None)
        ids = None if batch is None else (batch.to(device), None if queue is None else queue.to(device))
        return dataclasses.replace(self, ids=ids, **moved)

    def _tensors(self) -> dict[str, Any]:
        names = ("feat", "keys", "queue", "temperature", "teacher")
        return {name: getattr(self, name) for name in names}


def make_case(
    size: int,
    queue: int,
    dim: int,
    *,
    temperature: float = 0.07,
    alpha: float = 0.4,
    soft: bool = True,
    alike: bool = False,
    images: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """Unit features; `alike` makes all of a tensor's rows one, `images` gives that many numbers to all pairs."""
    generator = torch.Generator().manual_seed(size + queue + dim)

    def unit(rows: int) -> Tensor:
        drawn = torch.randn(1 if alike else rows, dim, generator=generator).expand(rows, dim)
        return F.normalize(drawn, dim=1).to(dtype)

    ids = None
    if images:
        numbers = torch.randint(0, images, (size + queue,), generator=generator)
        ids = (numbers[:size], numbers[size:] if queue else None)
    return Case(
        feat=unit(size),
        keys=unit(size),
        queue=unit(queue) if queue else None,
        temperature=torch.tensor([temperature], dtype=dtype if dtype == torch.float64 else torch.float32),
        teacher=unit(size) if soft else None,
        alpha=alpha,
        ids=ids,
    )


def plain_rows(case: Case) -> Tensor:
    """(B,) losses with every matrix written out, in the type of the inputs; the gradient reaches feat and temperature.

    The weight of hard targets is rounded to fp32, and so are the shares of several positives, as in the original.
    """
    candidates = case.keys if case.queue is None else torch.cat([case.keys, case.queue])
    scores = case.feat @ candidates.T / case.temperature
    size = len(case.feat)
    positive = torch.eye(size, len(candidates), dtype=torch.bool, device=scores.device)
    if case.ids is not None:
        numbers = case.ids[0] if case.ids[1] is None else torch.cat([case.ids[0], case.ids[1]])
        positive = case.ids[0][:, None] == numbers
    shares = positive.float() / positive.float().sum(dim=1, keepdim=True)
    hard = float(numpy.float32(1 - case.alpha)) if case.teacher is not None else 1.0
    targets = (shares * hard).to(scores.dtype)
    if case.teacher is not None:
        soft = (case.teacher @ candidates.T / case.temperature.detach()).softmax(dim=1)
        targets = targets + case.alpha * soft
    return -(scores.log_softmax(dim=1) * targets).sum(dim=1)


def plain_results(case: Case) -> dict[str, Tensor]:
    """Losses and gradients of `plain_rows`."""
    feat, temperature = case.feat.requires_grad_(), case.temperature.requires_grad_()
    return _results(plain_rows(case), feat, temperature)


def kernel_results(case: Case, impl: Impl) -> dict[str, Tensor]:
    """Losses and gradients of `itc_loss`."""
    feat, temperature = case.feat.requires_grad_(), case.temperature.requires_grad_()
    alpha = torch.tensor(case.alpha, dtype=torch.float64, device=feat.device)
    found = itc_loss(
        feat, case.keys, case.queue, temperature, teacher=case.teacher, alpha=alpha, ids=case.ids, impl=impl
    )
    assert found.rows.dtype == (torch.float64 if feat.dtype == torch.float64 else torch.float32)
    return _results(found.rows, feat, temperature)


def check_errors(case: Case, impl: Impl, device: str) -> None:
    """Each result's largest error against float64 is no larger than that of the losses written out in the case's type.

    The latter may be small by luck, so a floor is added. A score of 1 / temperature that is off by one rounding shifts
    its softmax by that; 64 more roundings are for the sums.
    """
    exact, plain = plain_results(case.to(torch.float64)), plain_results(case)
    found = kernel_results(case.on(device), impl)
    floor = ROUNDING * (1 / case.temperature.item() + 64)
    for what, truth in exact.items():
        size = max(1.0, float(truth.abs().max()))
        allowed = float((plain[what] - truth).abs().max()) + floor * size
        error = float((found[what] - truth).abs().max())
        assert error <= allowed, f"{what}: off by {error:.3g} of {size:.3g}, allowed {allowed:.3g}"


def _results(rows: Tensor, feat: Tensor, temperature: Tensor) -> dict[str, Tensor]:
    """The losses, and the gradients of a sum that weights every row otherwise, in float64 on the CPU."""
    weights = torch.linspace(-1, 2, len(rows), dtype=rows.dtype, device=rows.device)
    gradients = torch.autograd.grad((rows * weights).sum(), (feat, temperature))
    named = {"rows": rows.detach(), "feat": gradients[0], "temperature": gradients[1]}
    return {name: value.double().cpu() for name, value in named.items()}
