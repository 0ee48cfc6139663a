"""Skipped steps: counted in a row, logged with their sample keys, dumped for `replay`; too many end the run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from albef.errors import TrainingError
from pipeline.checkpoints.layout import step_tag
from pipeline.config.sections import WatchConfig
from pipeline.data.loader import StepBatches
from pipeline.engine.distributed import World
from pipeline.engine.step_check import StepCheck
from pipeline.run.folder import package_versions
from pipeline.watch.skipped_step_dump import bad_losses, remove_dump, skipped_in_a_row, write_dump

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StepFacts:
    """What a dump holds of the step beside the batches; equal on every rank."""

    seed: int
    scalars: dict[str, float]
    """What the task logs of the step, without `train/` in front."""
    zero_stage: int
    precision: str
    config_hash: str


class SkippedSteps:
    """Counts the steps skipped in a row. Its methods are collectives, but for `taken`.

    Args:
        folder: RUN/skipped.
        loss_names: of the losses that must be finite, in the order of the check's columns.
    """

    def __init__(self, folder: Path, config: WatchConfig, world: World, *, loss_names: Sequence[str]) -> None:
        self.folder, self.config, self.world, self.loss_names = folder, config, world, loss_names
        self.in_a_row = 0
        self._last: tuple[Path, str] | None = None

    def begin_at(self, step: int) -> None:
        """Continue the count of a run that stopped after `step` steps."""
        self.in_a_row = self.world.broadcast_object(skipped_in_a_row(self.folder / step_tag(step)))

    def taken(self) -> None:
        """A step was not skipped."""
        self.in_a_row = 0

    @property
    def too_many(self) -> bool:
        """Whether the run is to stop."""
        return self.in_a_row >= self.config.max_skipped_in_a_row

    def record(self, batches: StepBatches, lanes: range, check: StepCheck, facts: StepFacts) -> None:
        """Count, dump and log a skipped step. A dump that cannot be written is logged as well; the run continues.

        Args:
            batches: as the step took them, on the host.
            lanes: this rank's.
        """
        self.in_a_row += 1
        step, rank = batches.step + 1, self.world.rank
        target = self.folder / step_tag(step)
        with_batches = self.world.broadcast_object(self._prepare(target) if self.world.is_main else False)
        losses = {
            lane: dict(zip(self.loss_names, row, strict=False))
            for lane, row in zip(lanes, check.losses.tolist(), strict=True)
        }
        by_lane = dict(zip(lanes, batches.lanes, strict=True))
        known = dataclasses.asdict(facts)
        values = (
            known.pop("scalars")
            | known
            | {
                "step": step,
                "index": batches.step,
                "epoch": batches.epoch,
                "world_size": self.world.size,
                "in_a_row": self.in_a_row,
                "gradient_norm": check.norm,
                "random": {
                    "dropout": 'torch.manual_seed(derive(seed, "dropout", epoch, index, lane)) before the lane',
                    "batch": "drawn beforehand; the drawn values are in the batch",
                },
                "packages": package_versions(),
            }
        )
        problem = ""
        try:
            write_dump(target, values, losses, by_lane, rank=rank, with_batches=with_batches)
        except (OSError, SafetensorError) as error:
            problem = f"rank {rank} could not dump it: {error}"
        for lane, batch in by_lane.items():
            log.info("step %d, lane %d was skipped with the samples %s", step, lane, " ".join(batch.keys))
        reports = self.world.gather_objects((bad_losses(losses), problem))
        what = "; ".join([line for lines, _ in reports for line in lines] or [f"gradient norm {check.norm}"])
        self._last = target, what
        if self.world.is_main:
            log.warning(
                "step %d skipped, number %d in a row: %s. Nothing has moved; the batch is in %s",
                *(step, self.in_a_row, what, target),
            )
            for _, failure in reports:
                if failure:
                    log.warning("%s", failure)

    def error(self) -> TrainingError:
        """Why the run stops, when there are too many; the same on every rank."""
        assert self._last is not None, "error() after a skipped step"
        dump, what = self._last
        return TrainingError(
            f"{self.in_a_row} steps in a row were skipped, the last is {dump.name}: {what}",
            f"`python -m pipeline replay {dump}` shows where it begins and in which samples; a lower optim.lr, "
            "optim.clip_grad_norm or an earlier checkpoint may help. What there was before these steps is saved: the "
            "same command resumes with the next batch (watch.max_skipped_in_a_row is the limit)",
        )

    def _prepare(self, target: Path) -> bool:
        """Rank 0: an empty folder for the step. Returns whether there is room for its batches among the dumps."""
        try:
            target.mkdir(parents=True, exist_ok=True)
            remove_dump(target)  # of a start that was killed, and of other ranks perhaps
            return len(list(self.folder.glob("step_*/rank_0.safetensors"))) < self.config.max_dumps
        except OSError as error:
            log.warning("%s: %s", target, error)
            return False
