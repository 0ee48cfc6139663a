"""Training, top to bottom: set up, build, resume from a checkpoint, fit, one step. Read this file first.

What is trained is the task's (`pipeline/task.py`): the step asks it for the losses of each lane, then calls `advance`
or `discard`. The step of pretraining is in `pipeline/tasks/pretraining/task.py`. Randomness is drawn from (seed, epoch,
step, lane), never from a rank, so that one rank or many take the same steps.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor

from albef.errors import CheckpointError
from pipeline.checkpoints.layout import find_checkpoint
from pipeline.checkpoints.loading import load_checkpoint
from pipeline.checkpoints.meta import CheckpointMeta, new_meta
from pipeline.checkpoints.saving import CheckpointSaver
from pipeline.config.run_config import RunConfig
from pipeline.data import seeds, shared_memory
from pipeline.data.loader import StepBatches, TrainingLoader
from pipeline.data.sampling.lanes import lanes_of_rank
from pipeline.data.workers import start_fork_server
from pipeline.engine import distributed
from pipeline.engine.distributed import World
from pipeline.engine.ds_config import ResolvedDeepSpeed, resolve_ds_config
from pipeline.engine.fewer_operations import use_fewer_operations
from pipeline.engine.optim import build_optimizer, start_from
from pipeline.engine.schedule import lr_at
from pipeline.engine.step_check import StepCheck, check_step, take_step
from pipeline.exit_codes import STOPPED_AND_SAVED
from pipeline.planning.flops import needed_flops, peak_flops
from pipeline.run.data_fingerprint import check_same_data
from pipeline.run.folder import RunFolder
from pipeline.run.lock import exclusive_run
from pipeline.run.metrics import Metrics
from pipeline.run.step_trace import StepTrace
from pipeline.run.training_data import record_training_data
from pipeline.task import LaneStep, Pictures, Task, must_be_finite
from pipeline.task_maker import TaskMaker
from pipeline.watch.heartbeat import Heartbeat
from pipeline.watch.skipped_steps import SkippedSteps, StepFacts
from pipeline.watch.slow_steps import SlowSteps
from pipeline.watch.stop_signals import StopSignals

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StepParts:
    """What a training step needs. `bench step` makes one too, and measures the same `train_step`."""

    run: RunConfig
    world: World
    ds: ResolvedDeepSpeed
    task: Task
    engine: Any
    lanes: range
    """This rank's lanes of the global batch."""
    steps_per_epoch: int
    total_steps: int


@dataclass(kw_only=True)
class Training:
    """The parts of a run, built once."""

    parts: StepParts
    folder: RunFolder
    loader: TrainingLoader
    saver: CheckpointSaver
    metrics: Metrics
    heartbeat: Heartbeat
    skipped: SkippedSteps
    slow: SlowSteps
    trace: StepTrace
    start_step: int = 0


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one training step gave."""

    check: StepCheck
    losses: Tensor | None
    """Means over this rank's lanes in the order of `Task.loss_names`, float64, on the device; None if skipped."""
    scalars: Mapping[str, float | Tensor]
    """The task's, by full name; equal on all ranks."""
    lr: float
    pictures: Callable[[], Pictures] | None
    """Draws lane 0, on the rank that has it, if it was asked for."""


def train(run: RunConfig, run_dir: Path, task: TaskMaker, *, resume: str = "auto") -> int:
    """Train until the recipe's last step, or until a stop is requested.

    Args:
        run_dir: the run folder; the same call on the same folder resumes where it stopped.
        resume: "auto" resumes if the folder holds a checkpoint, "must" insists on one, "never" insists on none.

    Returns: 0 when the last step is done, 75 when stopped on request and saved.
    Raises: ConfigError, DataError, CheckpointError for what the user can fix.
    """
    with ExitStack() as leaving:
        world = distributed.init()
        leaving.callback(distributed.shutdown)
        # Before the build, which takes seconds: a rank that a signal finds without a handler would die of it.
        stop = leaving.enter_context(StopSignals(world, RunFolder(path=run_dir).stop_file))
        heartbeat = leaving.enter_context(Heartbeat(world, run.watch.hang_s))
        leaving.enter_context(exclusive_run(run_dir, world))
        training = build(run, run_dir, world, heartbeat, task)
        leaving.callback(training.loader.close)
        leaving.callback(training.metrics.close)
        leaving.callback(training.trace.close)
        resume_run(training, resume)
        return fit(training, stop)


def build(run: RunConfig, run_dir: Path, world: World, heartbeat: Heartbeat, maker: TaskMaker) -> Training:
    """Task, data and engine, each equal on all ranks."""
    heartbeat.phase("opening the run folder and the data")
    ds = resolve_ds_config(run, world.size)
    folder = RunFolder.open(run_dir, run, ds.config, world)
    corpus = maker.corpus(run)
    check_same_data(folder, corpus, world)
    record_training_data(folder, run, corpus, world)
    if run.data.num_workers:
        start_fork_server([maker.batch_module])  # takes seconds, as building the model does
    heartbeat.phase("building the model")
    task = maker.make(run, world, ds.compute_dtype)
    num_lanes = run.batch.num_lanes
    lanes = lanes_of_rank(world.rank, world.size, num_lanes)
    loader = TrainingLoader(
        corpus,
        data=run.data,
        batcher=task.batcher,
        seed=run.seed,
        micro_batch_size=run.batch.micro_batch_size,
        num_lanes=num_lanes,
        lanes=lanes,
        images_per_sample=run.images_per_sample,
        pin_memory=world.device.type == "cuda",
    )
    warn_of_shared_memory(loader, world)
    heartbeat.phase("starting DeepSpeed")
    parts = StepParts(
        run=run,
        world=world,
        ds=ds,
        task=task,
        engine=start_engine(run, ds, task, world),
        lanes=lanes,
        steps_per_epoch=loader.steps_per_epoch,
        total_steps=run.total_steps(loader.steps_per_epoch),
    )
    return Training(
        parts=parts,
        folder=folder,
        loader=loader,
        saver=CheckpointSaver(
            folder=folder.checkpoints, config=run.checkpoint, world=world, engine=parts.engine, task=task
        ),
        metrics=build_metrics(parts, folder, maker),
        heartbeat=heartbeat,
        skipped=SkippedSteps(folder.skipped, run.watch, world, loss_names=must_be_finite(task.loss_names)),
        slow=SlowSteps(run.watch.slow_step_factor, world),
        trace=StepTrace(run.logging.profiled_steps if world.is_main else range(0), folder.profile),
    )


def start_engine(run: RunConfig, ds: ResolvedDeepSpeed, task: Task, world: World) -> Any:
    """DeepSpeed's engine around the task's model, as the recipe has it."""
    weights = {name: parameter.data for name, parameter in task.model.named_parameters()}
    optimizer = build_optimizer(task.model, run.optim, device=world.device)
    engine, *_ = deepspeed.initialize(model=task.model, optimizer=optimizer, config=ds.config, dist_init_required=False)
    use_fewer_operations(engine)
    start_from(engine, weights)
    return engine


def warn_of_shared_memory(loader: TrainingLoader, world: World) -> None:
    """Log when the workers of this machine's ranks may find too little of /dev/shm; a collective."""
    ranks_here = world.gather_objects(socket.gethostname()).count(socket.gethostname())
    short = shared_memory.shortage(loader.shared_memory_bytes * ranks_here)
    if short and world.local_rank == 0:
        log.warning("%s: %s", short, shared_memory.HINT)


def build_metrics(parts: StepParts, folder: RunFolder, maker: TaskMaker) -> Metrics:
    """The run's scalars; on a GPU with what MFU needs, counted once (on the CPU `bench step` reports it)."""
    run, world = parts.run, parts.world
    flops, peak = 0.0, 0.0
    if world.is_main and world.device.type == "cuda":
        flops = needed_flops(run, maker, parts.ds.compute_dtype)
        peak, source = peak_flops(world.device, parts.ds.compute_dtype)
        log.info("%.1f GFLOP needed a sample, peak %.0f TFLOP/s (%s)", flops / 1e9, peak / 1e12, source)
    return Metrics(
        run.logging,
        folder,
        world,
        loss_names=parts.task.loss_names,
        total_steps=parts.total_steps,
        batch=run.batch.global_batch_size,
        flops_per_sample=flops,
        peak_flops=peak,
    )


def fit(training: Training, stop: StopSignals) -> int:
    """Step after step from `start_step`; log, validate, save when due. Returns the exit code."""
    parts, metrics, heartbeat = training.parts, training.metrics, training.heartbeat
    run, total_steps, skipped = parts.run, parts.total_steps, training.skipped
    if training.start_step >= total_steps:
        log.info("%s has taken its %d steps already", run.name, total_steps)
        return 0
    if training.start_step == 0:
        validate(training, step=0)
    skipped.begin_at(training.start_step)
    metrics.start(training.start_step)
    for batches in waited_for(training):
        done = batches.step + 1
        phase = training.trace.begin(batches.step, heartbeat.phase)
        # without a name for the result, whose pictures hold a lane's tensors
        report(training, batches, train_step(parts, batches, phase, draw=metrics.images_due(done)))
        training.trace.end(batches.step)
        last = done >= total_steps
        stopping = stop.agreed() and not last
        if last or due(done, run.validation.every_steps):
            validate(training, step=done)
        leaving = last or stopping or skipped.too_many
        training.saver.publish_if_written()
        if leaving or due(done, run.checkpoint.save_every):
            try:
                save(training, step=done, epoch=batches.epoch, wait=leaving)
            except CheckpointError:
                if not skipped.too_many:  # else the reason to stop matters more; the log reports the failed save
                    raise
        if skipped.too_many:
            raise skipped.error()
        if last:
            log.info("%s has taken its %d steps", run.name, total_steps)
            return 0
        if stopping:
            log.info("stopped by %s: saved at step %d of %d", stop.reason, done, total_steps)
            return STOPPED_AND_SAVED
    raise AssertionError("the loader is endless")


def train_step(
    parts: StepParts, batches: StepBatches, phase: Callable[[str], None], *, draw: bool = False
) -> StepResult:
    """One optimizer step over this rank's lanes.

    A step whose losses or gradient are not finite on any rank moves nothing on all of them: no weight, no moment,
    nothing of the task's; only its batch counts as seen.

    Args:
        phase: is called with the name of each part of the step as it begins.
        draw: whether the result can draw pictures of lane 0.
    """
    run, world, engine, task, lanes = parts.run, parts.world, parts.engine, parts.task, parts.lanes
    step, steps_per_epoch = batches.step, parts.steps_per_epoch
    lr = lr_at(step, run.schedule, lr=run.optim.lr, steps_per_epoch=steps_per_epoch, total_steps=parts.total_steps)
    set_lr(engine, lr)
    values: list[Tensor] = []
    scalars: Mapping[str, float | Tensor] = {}
    pictures: Callable[[], Pictures] | None = None
    for lane, host_batch in zip(lanes, batches.lanes, strict=True):
        phase("forward")
        batch = host_batch.to(world.device, non_blocking=True)
        torch.manual_seed(seeds.derive(run.seed, "dropout", batches.epoch, step, lane))
        at = LaneStep(step=step, epoch=batches.epoch, lane=lane, num_lanes=len(lanes), steps_per_epoch=steps_per_epoch)
        losses = task.losses(engine, batch, at)
        phase("backward")
        engine.backward(losses.total)
        values.append(losses.values)
        scalars = losses.scalars
        if draw and lane == 0:
            pictures = losses.pictures
        del batch, losses  # or the next lane's forward would hold this lane's batch as well
        if lane != lanes[-1]:
            engine.step()  # counts the lane; the weights move after the last one
    phase("check")
    check = check_step(engine, torch.stack(values), world, num_losses=len(must_be_finite(task.loss_names)))
    phase("optimizer")
    take_step(engine, check, clip_grad_norm=run.optim.clip_grad_norm)
    phase("advance")
    if check.skipped:
        task.discard()
    else:
        task.advance(engine, steps_done=step + 1)
    # float64: exact sums of a few fp32 losses, so the lanes may be added in any order, on any rank
    means = None if check.skipped else check.losses.double().sum(dim=0) / len(lanes)
    return StepResult(check=check, losses=means, scalars=scalars, lr=lr, pictures=pictures)


def report(training: Training, batches: StepBatches, result: StepResult) -> None:
    """Record a step: its scalars, its pictures where they are due, a dump where it was skipped."""
    parts, metrics, done = training.parts, training.metrics, batches.step + 1
    training.heartbeat.phase("between steps", step=done)
    if result.check.skipped:
        training.skipped.record(batches, parts.lanes, result.check, step_facts(parts, result.scalars))
    else:
        training.skipped.taken()
        if result.pictures is not None:
            metrics.show(done, *result.pictures())
    scalars = {
        "optim/lr": result.lr,
        "optim/grad_norm": result.check.norm,
        "optim/skipped_steps": parts.engine.skipped_steps,
        **result.scalars,
        "speed/slow_steps": training.slow.total,
    }
    metrics.record(done, result.losses, epoch=batches.epoch, skipped=batches.skipped, scalars=scalars)
    training.slow.note(done, *metrics.step_s, batches.lanes[0].keys)


def resume_run(training: Training, resume: str) -> None:
    """Load the newest whole checkpoint of the run folder, if there is one; every rank takes the same."""
    parts, folder = training.parts, training.folder
    training.heartbeat.phase("loading the checkpoint")
    found = parts.world.broadcast_object(find_on_main(folder.checkpoints) if parts.world.is_main else None)
    if isinstance(found, CheckpointError):
        raise found
    folder.check_resume(resume, found is not None)
    if found is None:
        training.metrics.open_at_step(0)
        return
    path, meta = found
    load_checkpoint(
        path,
        meta,
        parts.engine,
        parts.task,
        world=parts.world,
        zero_stage=parts.ds.stage,
        precision=parts.ds.precision,
    )
    training.start_step = meta.step
    training.metrics.open_at_step(meta.step)
    log.info("resuming from %s: step %d of %d", path, meta.step, parts.total_steps)


def find_on_main(checkpoints: Path) -> tuple[Path, CheckpointMeta] | CheckpointError | None:
    """What rank 0 found, or the error for all ranks to raise: one that raised alone would leave the others waiting."""
    try:
        return find_checkpoint(checkpoints)
    except CheckpointError as error:
        return error


def save(training: Training, *, step: int, epoch: int, wait: bool) -> None:
    """Begin to save `step` finished steps; with `wait` (the last step, a requested stop) until it is published."""
    parts, saver = training.parts, training.saver
    training.heartbeat.phase("saving")
    meta = new_meta(
        run_name=parts.run.name,
        step=step,
        epoch=epoch,
        samples_seen=step * parts.run.batch.global_batch_size,
        world_size=parts.world.size,
        zero_stage=parts.ds.stage,
        precision=parts.ds.precision,
        config_hash=parts.run.hash(),
    )
    if wait:
        saver.save_now(meta)
    else:
        saver.start(meta)
        if not parts.run.checkpoint.asynchronous:
            saver.finish()


def validate(training: Training, *, step: int) -> None:
    """Score the model on the task's validation set."""
    parts = training.parts
    if scalars := parts.task.validate(parts.engine, training.heartbeat.progress):
        training.metrics.write(step, scalars)


def step_facts(parts: StepParts, scalars: Mapping[str, float | Tensor]) -> StepFacts:
    """What a dump of a skipped step holds beside the batches."""
    return StepFacts(
        seed=parts.run.seed,
        scalars={name.removeprefix("train/"): float(value) for name, value in scalars.items()},
        zero_stage=parts.ds.stage,
        precision=parts.ds.precision,
        config_hash=parts.run.hash(),
    )


def due(step: int, every: int) -> bool:
    """Whether something that is done every `every` steps is to be done after `step` steps; 0 is never."""
    return bool(every) and step % every == 0


def set_lr(engine: Any, lr: float) -> None:
    """Set the rate of every parameter group for the step to come; the temperature's may be a share of it."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_share", 1.0)


def waited_for(training: Training) -> Iterator[StepBatches]:
    """The loader's steps from `start_step`, with the time spent waiting for each recorded."""
    steps = training.loader.steps(training.start_step)
    training.heartbeat.phase("waiting for data", step=training.start_step)
    while True:
        began = time.monotonic()
        batches = next(steps)
        training.metrics.data_wait(time.monotonic() - began)
        yield batches
        training.heartbeat.phase("waiting for data")
