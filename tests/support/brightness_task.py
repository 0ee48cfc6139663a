"""A task that is not pretraining: a line that learns how bright an image is, and a running average of its weights.

Data workers import this file: it does not import the trainer, nor DeepSpeed with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config.run_config import RunConfig
from pipeline.data.corpus.manifest import read_manifest
from pipeline.data.corpus.reader import RawSample
from pipeline.data.decode import load_pixels, open_image
from pipeline.engine.distributed import World
from pipeline.task import LaneLosses, LaneStep, Progress
from pipeline.task_maker import TaskMaker

SIDE = 8


@dataclass(kw_only=True)
class Pixels:
    """A `pipeline.task.Batch`."""

    image: Tensor
    """(B, 3, SIDE, SIDE) in [0, 1]."""
    keys: list[str]
    captions: list[str]

    def to(self, device: Any, *, non_blocking: bool = False) -> Pixels:
        return replace(self, image=self.image.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Pixels:
        return replace(self, image=self.image.pin_memory())

    def only(self, index: int) -> Pixels:
        rows = slice(index, index + 1)
        return Pixels(image=self.image[rows], keys=self.keys[rows], captions=self.captions[rows])


@dataclass(frozen=True)
class Pixel:
    name: str
    image: Tensor


class PixelBatcher:
    """A `pipeline.task.Batcher`."""

    image_size = SIDE

    def example(self, raw: RawSample, *, seed: int, epoch: int) -> Pixel:
        picture = load_pixels(open_image(raw.jpg, raw.name), raw.name).resize((SIDE, SIDE))
        values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(SIDE, SIDE, 3)
        return Pixel(raw.name, values.permute(2, 0, 1).float() / 255)

    def batch(self, examples: Sequence[Pixel], *, seed: int, epoch: int, step: int, lane: int) -> Pixels:
        names = [one.name for one in examples]
        return Pixels(image=torch.stack([one.image for one in examples]), keys=names, captions=[""] * len(names))


class Line(nn.Module):
    """A weight for each colour."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 3))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B,)."""
        return (image.mean(dim=(2, 3)) @ self.weight.to(image.dtype).T).squeeze(1)


@dataclass
class Brightness:
    """A `pipeline.task.Task`."""

    model: Line = field(default_factory=Line)
    average: Tensor = field(default_factory=lambda: torch.zeros(1, 3))
    batcher: PixelBatcher = field(default_factory=PixelBatcher)
    loss_names: Sequence[str] = ("loss", "error")
    discarded: int = 0

    @property
    def shape(self) -> dict[str, Any]:
        return {"line": 3}

    def losses(self, engine: Any, batch: Pixels, at: LaneStep) -> LaneLosses:
        wanted = batch.image.mean(dim=(1, 2, 3))
        loss = (engine(batch.image) - wanted).square().mean()
        values = torch.stack([loss.detach(), loss.detach().sqrt()])
        return LaneLosses(total=loss, values=values, scalars={"train/lane": float(at.num_lanes)}, pictures=nothing)

    def advance(self, engine: Any, *, steps_done: int) -> None:
        self.average.lerp_(self.model.weight.detach(), 0.5)

    def discard(self) -> None:
        self.discarded += 1

    def state(self) -> dict[str, dict[str, Tensor]]:
        return {"average": {"weight": self.average}}

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.average.copy_(state["average"]["weight"])

    def validate(self, engine: Any, progress: Progress) -> dict[str, float]:
        return {"val/weight": self.model.weight.sum().item()}


def nothing() -> tuple[dict[str, Any], dict[str, str]]:
    return {}, {}


def sketch(_run: RunConfig, dtype: torch.dtype) -> Brightness:
    return Brightness(model=Line().to("meta", dtype), average=torch.zeros(1, 3, device="meta"))


def noise(_run: RunConfig, batch_size: int) -> Pixels:
    return Pixels(image=torch.rand(batch_size, 3, SIDE, SIDE), keys=[""] * batch_size, captions=[""] * batch_size)


def bytes_beside(sketch: Brightness) -> dict[str, int]:
    return {"average": sketch.average.nbytes}


def make(_run: RunConfig, _world: World, _compute_dtype: torch.dtype) -> Brightness:
    return Brightness()


BRIGHTNESS = TaskMaker(
    corpus=lambda run: read_manifest(run.data.manifests),
    make=make,
    batch_module=__name__,
    sketch=sketch,
    noise=noise,
    bytes_beside=bytes_beside,
    batch_lines=lambda run: [],
    checks=lambda run: [],
)
