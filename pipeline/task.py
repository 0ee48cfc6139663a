"""What a task gives the trainer: a model, batches, losses, and the state that lives beside the engine.

`pipeline/train.py` has the loop and the step and calls these members in plain sight; it knows no task by name. A new
task is a folder under `pipeline/tasks/` and its model. This file imports nothing of `pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, of how many."""


Pictures = tuple[Mapping[str, Any], Mapping[str, str]]
"""For TensorBoard: pictures by tag, (H, W, 3) uint8, and Markdown by tag."""


def no_pictures() -> Pictures:
    """Nothing for TensorBoard."""
    return {}, {}


class Batch(Protocol):
    """One lane's micro-batch: a dataclass of tensors, on the host until the step moves it."""

    image: Tensor
    """(B, 3, H, W); of samples with two images (2B, 3, H, W), the first images, then the second ones. It travels from a
    worker through shared memory."""
    keys: list[str]
    """(B,) the samples' names, for the record."""
    captions: list[str]
    """(B,) the samples' texts, for the record."""

    def to(self, device: Any, *, non_blocking: bool = False) -> Any:
        """The same batch with its tensors on `device`."""

    def pin_memory(self) -> Any:
        """The same batch in page-locked memory."""


class Batcher(Protocol):
    """Makes one lane's batch out of samples. Picklable: every data worker gets one."""

    @property
    def image_size(self) -> int:
        """Side of the batch's images, pixels: what a batch takes of shared memory follows from it."""

    def example(self, raw: Any, *, seed: int, epoch: int) -> Any:
        """One sample, decoded and drawn: a pure function of the sample, the seed and the epoch.

        Args:
            raw: a `pipeline.data.corpus.reader.RawSample`.
        Returns: anything with the sample's `name`.
        Raises: BadSample when the sample cannot be used.
        """

    def batch(self, examples: Sequence[Any], *, seed: int, epoch: int, step: int, lane: int) -> Batch:
        """B examples together. What is drawn between them is drawn by (seed, epoch, step, lane)."""


@dataclass(frozen=True, kw_only=True)
class LaneStep:
    """Which lane of which step."""

    step: int
    """Optimizer steps taken before this one."""
    epoch: int
    lane: int
    """Number of the lane in the global batch."""
    num_lanes: int
    """Lanes that this rank takes in a step."""
    steps_per_epoch: int


@dataclass(kw_only=True)
class LaneLosses:
    """What the forward of one lane gives."""

    total: Tensor
    """Scalar; backward starts here."""
    values: Tensor
    """(len(loss_names),) without gradient, on the device, in the order of `Task.loss_names`."""
    scalars: Mapping[str, float | Tensor]
    """What the log shows of this step besides, by its full name (`train/alpha`); equal on all ranks and lanes."""
    pictures: Callable[[], Pictures] = no_pictures
    """Draws this lane when it is called."""


class Task(Protocol):
    """A training task. Every rank has one; methods are collectives unless they say otherwise."""

    @property
    def model(self) -> nn.Module:
        """What DeepSpeed trains."""

    @property
    def batcher(self) -> Batcher:
        """Sent to every data worker."""

    @property
    def loss_names(self) -> Sequence[str]:
        """What `LaneLosses.values` holds, in its order.

        `loss`, the total, first; then the losses, which begin with `loss` and must be finite for a step to be taken;
        then what is only averaged and logged.
        """

    @property
    def shape(self) -> Mapping[str, Any]:
        """What a reader of a checkpoint builds the model from, as JSON: saved as `model_config.json`."""

    def losses(self, engine: Any, batch: Any, at: LaneStep) -> LaneLosses:
        """The forward of one lane, nothing else.

        Args:
            engine: the engine that wraps `model`; or the model itself, where a lane is taken without one.
            batch: what `batcher` made, on the device.
        """

    def advance(self, engine: Any, *, steps_done: int) -> None:
        """What follows a step that was taken."""

    def discard(self) -> None:
        """What follows a step that was skipped: nothing that its forward left may stay."""

    def state(self) -> Mapping[str, Mapping[str, Tensor]]:
        """What a checkpoint keeps beside the engine: tensors by name, by the name of their file without its ending.

        The tensors are the live ones. The same on every rank; not a collective.
        """

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Adopt what `state` gave. Not a collective.

        Raises: CheckpointError when the names or shapes are not this task's.
        """

    def validate(self, engine: Any, progress: Progress) -> dict[str, float]:
        """Scalars of the validation set by full name, the same on all ranks; empty without one."""


def must_be_finite(loss_names: Sequence[str]) -> list[str]:
    """Those of `Task.loss_names` that are losses; they come first, and the others are only averaged and logged."""
    return [name for name in loss_names if name.startswith("loss")]
