"""Scalars: `metrics.jsonl` (one object a line), TensorBoard (the same, and images), one console line a log step.

Training scalars are means over lanes, ranks and the steps since the line before, so nothing between two lines is lost;
steps that were skipped are left out, and losses are null where all of them were.
They stay on the device until a log step; then one collective and one copy to the host bring them all.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from albef.errors import ConfigError
from base.progress import duration
from pipeline.config.sections import LogConfig
from pipeline.run.metrics_file import truncate_jsonl
from pipeline.run.retrying_file import RetryingFile, unwritable
from pipeline.task import must_be_finite

if TYPE_CHECKING:
    from pipeline.engine.distributed import World
    from pipeline.run.event_file import EventFile
    from pipeline.run.folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Window:
    """What has come together since the last log line, on this rank."""

    step_began: float
    losses: torch.Tensor | None = None
    """Sums over the steps that were not skipped, float64, on the device."""
    taken: int = 0
    """Steps in `losses`."""
    steps: int = 0
    skipped: int = 0
    wait_s: float = 0.0
    busy_s: float = 0.0
    """Time in steps: validation and saving are not counted."""


class Metrics:
    """The run's scalars. Every rank has one and calls `record` at every step; rank 0's writes.

    Args:
        loss_names: what `record` is given of each step, in its order; logged under `train/`.
        total_steps: for percent and time left.
        batch: pairs an optimizer step sees, over all ranks.
        flops_per_sample: what a sample needs (`pipeline.planning.flops.needed_flops`), for `speed/mfu_pct`; 0 leaves
            it out.
        peak_flops: what one rank's device can do, FLOP/s.
    """

    def __init__(
        self,
        config: LogConfig,
        folder: RunFolder,
        world: World,
        *,
        loss_names: Sequence[str],
        total_steps: int,
        batch: int,
        flops_per_sample: float = 0.0,
        peak_flops: float = 0.0,
    ) -> None:
        self.config = config
        self.folder = folder
        self.world = world
        self.loss_names = loss_names
        self.total_steps = total_steps
        self.batch = batch
        self.flops_per_sample = flops_per_sample
        self.peak_flops = peak_flops
        self._file: RetryingFile | None = None
        self._board: EventFile | None = None
        self._skipped_samples = 0.0
        self._window = _Window(step_began=time.perf_counter())
        self._wait_s = 0.0
        self._step_s = (0.0, 0.0)

    def open_at_step(self, step: int) -> None:
        """Open the files for a run that has taken `step` steps; a collective.

        Lines of later steps (taken after the checkpoint, and now taken again) are dropped from metrics.jsonl, and
        TensorBoard hides them, so that curves never fork.

        Raises: ConfigError, on every rank, when a file cannot be written.
        """
        problem = self.world.broadcast_object(self._open(step) if self.world.is_main else None)
        if problem is not None:
            raise problem

    def _open(self, step: int) -> ConfigError | None:
        """Rank 0: the error for every rank to raise, or None and the files are there."""
        try:
            # A run that starts again takes step 0's validation again too.
            last = truncate_jsonl(self.folder.metrics, step if step else -1)
            self._skipped_samples = float(last.get("data/skipped_samples") or 0.0)
            self._file = RetryingFile(self.folder.metrics)
            self._file.write(b"")
            if self.config.tensorboard:
                from pipeline.run.event_file import EventFile  # seconds to import

                self._board = EventFile(self.folder.tensorboard, purge_step=step + 1 if step else 0)
        except OSError as error:
            return unwritable(self.folder.path, error)
        except ConfigError as error:
            return error
        return None

    @property
    def step_s(self) -> tuple[float, float]:
        """Seconds of the step recorded last, and how many of them it waited for its batches."""
        return self._step_s

    def start(self, step: int) -> None:
        """Start the clock: the next `record` is of step `step + 1`."""
        self._window = _Window(step_began=time.perf_counter())

    def data_wait(self, seconds: float) -> None:
        """Note the time a step waited for its batches. Called when they are there: the step's clock starts with it."""
        self._window.wait_s += seconds
        self._wait_s = seconds
        self._window.step_began = time.perf_counter() - seconds

    def images_due(self, step: int) -> bool:
        """Whether step `step` (counted from 1) is one to draw pictures of; the first always is."""
        every = self.config.images_every
        return bool(every) and self.config.tensorboard and (step == 1 or step % every == 0)

    def log_due(self, step: int) -> bool:
        """Whether step `step` (counted from 1) gets a line; the first and the last always do."""
        return step % self.config.log_every == 0 or step in (1, self.total_steps)

    def record(
        self,
        step: int,
        losses: torch.Tensor | None,
        *,
        epoch: int,
        skipped: Mapping[str, int] | None = None,
        scalars: Mapping[str, float | torch.Tensor | None] | None = None,
    ) -> None:
        """Take in one step; on a log step, write a line. Collective on log steps.

        Args:
            step: steps taken, this one included.
            losses: this rank's means of `loss_names`, on the device; None for a step that was skipped (on every rank).
            skipped: samples replaced in this step on this rank, by reason.
            scalars: what is equal on all ranks, as of this step: `optim/lr`, `train/alpha`, `train/temperature`, ...;
                a tensor stays on the device unless this is a log step, None is left out.
        """
        window = self._window
        if losses is not None:
            window.losses = losses.double() if window.losses is None else window.losses + losses
            window.taken += 1
        window.steps += 1
        window.skipped += sum((skipped or {}).values())
        if not self.log_due(step):
            self._add_step(time.perf_counter())
            return
        host = [window.skipped, window.wait_s, _peak_bytes(self.world)]
        means_here = torch.full((len(self.loss_names),), torch.nan, dtype=torch.float64, device=self.world.device)
        if window.losses is not None:
            means_here = window.losses / window.taken
        row = torch.cat([means_here, means_here.new_tensor(host)])
        rows = self.world.gather_rows(row).cpu()  # (world, losses + 3); here the host waits for the device
        now = time.perf_counter()
        self._add_step(now)
        self._window = _Window(step_began=now)
        if not self.world.is_main:
            return
        *means, _, wait_s, _ = rows.mean(0).tolist()
        self._skipped_samples += rows[:, -3].sum().item()
        samples_per_s = window.steps * self.batch / window.busy_s
        values: dict[str, float | None] = {
            f"train/{name}": mean for name, mean in zip(self.loss_names, means, strict=True)
        }
        values |= {name: None if value is None else float(value) for name, value in (scalars or {}).items()}
        values |= {
            "speed/samples_per_s": samples_per_s,
            "speed/step_s": window.busy_s / window.steps,
            "speed/data_wait_pct": 100.0 * wait_s / window.busy_s,
            "speed/mfu_pct": self._mfu_pct(samples_per_s),
            "memory/peak_gib": rows[:, -1].max().item() / 2**30,
            "data/samples_seen": step * self.batch,
            "data/skipped_samples": self._skipped_samples,
            "data/epoch": epoch,
        }
        kept = {name: value for name, value in values.items() if value is not None}
        self.write(step, kept)
        log.info("%s", console_line(step, self.total_steps, kept, self.loss_names))

    def _add_step(self, now: float) -> None:
        seconds = now - self._window.step_began
        self._window.busy_s += seconds
        self._step_s = seconds, min(seconds, self._wait_s)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write scalars of a step, as they are; rank 0 only, a call on another rank does nothing."""
        if self._file is None:
            return
        line = {"step": step, "total_steps": self.total_steps, "time": round(time.time(), 3)} | {
            name: _finite(v) for name, v in scalars.items()
        }
        self._file.append(json.dumps(line).encode() + b"\n")
        if self._board is not None:
            self._board.scalars(step, scalars)

    def image(self, tag: str, picture: Any, step: int) -> None:
        """Show a picture, (H, W, 3) uint8 or float in [0, 1], in TensorBoard."""
        if self._board is not None:
            self._board.image(tag, picture, step)

    def text(self, tag: str, words: str, step: int) -> None:
        """Show text (Markdown) in TensorBoard."""
        if self._board is not None:
            self._board.text(tag, words, step)

    def show(self, step: int, pictures: Mapping[str, Any], texts: Mapping[str, str]) -> None:
        """Show pictures and texts by tag, as `image` and `text` do."""
        for tag, picture in pictures.items():
            self.image(tag, picture, step)
        for tag, words in texts.items():
            self.text(tag, words, step)

    def close(self) -> None:
        """Write what could not be written so far, if there is room now; nothing is written after that."""
        if self._board is not None:
            self._board.close()
            self._board = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _mfu_pct(self, samples_per_s: float) -> float | None:
        if not (self.flops_per_sample and self.peak_flops):
            return None
        return 100.0 * samples_per_s * self.flops_per_sample / (self.peak_flops * self.world.size)


def console_line(step: int, total_steps: int, scalars: Mapping[str, float], loss_names: Sequence[str]) -> str:
    """One line of progress: step, percent, losses, rate, time left."""
    rate = scalars["speed/samples_per_s"]
    left_s = (total_steps - step) * scalars["speed/step_s"]
    parts = [
        f"step {step:,}/{total_steps:,} ({100 * step / total_steps:.1f}%)",
        _losses_text(scalars, must_be_finite(loss_names)),
    ]
    if "optim/lr" in scalars:
        parts.append(f"lr {scalars['optim/lr']:.2e}")
    parts.append(f"{rate:,.0f} samples/s" if rate >= 10 else f"{rate:.2f} samples/s")
    parts.append(f"data wait {scalars['speed/data_wait_pct']:.0f}%")
    parts.append(f"{duration(left_s)} left")
    return " | ".join(parts)


def _losses_text(scalars: Mapping[str, float], names: Sequence[str]) -> str:
    """`loss 9.0000 (itc 5.0000 itm 0.5000 mlm 3.5000)`."""
    total, *parts = names
    inside = " ".join(f"{name.removeprefix('loss_')} {scalars[f'train/{name}']:.4f}" for name in parts)
    return f"loss {scalars[f'train/{total}']:.4f}" + (f" ({inside})" if inside else "")


def _finite(value: float) -> float | None:
    """JSON has no infinity: null."""
    return value if abs(value) < float("inf") else None


def _peak_bytes(world: World) -> float:
    """Most memory this rank has held: allocated on its GPU, else resident in its process."""
    if world.device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(world.device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)
