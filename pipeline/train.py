"""Pretraining, top to bottom: set up, build, go on from a checkpoint, fit, one step. Read this file first.

The step reads like the paper (section 3): the momentum teacher gives soft targets, the student is trained on three
losses, the teacher's features join the queue, the teacher follows the student. Randomness is drawn from
(seed, epoch, step, lane), never from a rank, so that one rank or many take the same steps.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor

from albef.batch import PretrainBatch, TeacherTargets
from albef.errors import CheckpointError
from albef.initialise import initialise
from albef.model import AlbefForPretraining
from albef.momentum import MomentumTeacher
from albef.queue import FeatureQueue
from albef.tokenizer import AlbefTokenizer
from pipeline import checkpoint
from pipeline.checkpoint_loading import load_checkpoint
from pipeline.config.run_config import RunConfig
from pipeline.data import seeds, shared_memory
from pipeline.data.corpus.manifest import read_manifest
from pipeline.data.loader import PretrainLoader, StepBatches
from pipeline.data.sampling.lanes import lanes_of_rank
from pipeline.engine import distributed
from pipeline.engine.distributed import World
from pipeline.engine.ds_config import ResolvedDeepSpeed, resolve_ds_config
from pipeline.engine.optim import build_optimizer
from pipeline.engine.schedule import alpha_at, lr_at
from pipeline.engine.step_check import check_step, take_step
from pipeline.exit_codes import STOPPED_AND_SAVED
from pipeline.planning.flops import flops_per_sample, peak_flops
from pipeline.run.data_fingerprint import check_same_data
from pipeline.run.folder import RunFolder
from pipeline.run.lock import exclusive_run
from pipeline.run.metrics import Metrics
from pipeline.saving import CheckpointSaver
from pipeline.tasks.pretraining.pictures import training_pictures, training_tables
from pipeline.tasks.retrieval.validation import Validator
from pipeline.watch.heartbeat import Heartbeat
from pipeline.watch.skipped_steps import SkippedSteps, StepFacts
from pipeline.watch.slow_steps import SlowSteps
from pipeline.watch.stop_signals import StopSignals

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Training:
    """The parts of a run, built once and handed to every function below."""

    run: RunConfig
    world: World
    folder: RunFolder
    ds: ResolvedDeepSpeed
    engine: Any
    teacher: MomentumTeacher
    queue: FeatureQueue
    loader: PretrainLoader
    saver: CheckpointSaver
    validator: Validator
    metrics: Metrics
    heartbeat: Heartbeat
    skipped: SkippedSteps
    slow: SlowSteps
    tokenizer: AlbefTokenizer
    total_steps: int
    start_step: int = 0


def pretrain(run: RunConfig, run_dir: Path, *, resume: str = "auto") -> int:
    """Train until the recipe's last step, or until told to stop.

    Args:
        run_dir: the run folder; the same call on the same folder goes on where it was.
        resume: "auto" goes on if the folder holds a checkpoint, "must" insists on one, "never" insists on none.

    Returns: 0 when the last step is done, 75 when told to stop and saved.
    Raises: ConfigError, DataError, CheckpointError for what the user can mend.
    """
    world = distributed.init()
    try:
        # Before the build, which takes seconds: a rank that a signal finds without a handler would die of it.
        with (
            StopSignals(world, RunFolder(path=run_dir).stop_file) as stop,
            Heartbeat(world, run.watch.hang_s) as heartbeat,
            exclusive_run(run_dir, world),
        ):
            training = build(run, run_dir, world, heartbeat)
            try:
                heartbeat.phase("loading the checkpoint")
                resume_run(training, resume)
                return fit(training, stop)
            finally:
                training.metrics.close()
                training.loader.close()
    finally:
        distributed.shutdown()


def build(run: RunConfig, run_dir: Path, world: World, heartbeat: Heartbeat) -> Training:
    """Data, student, teacher, queue and engine, each equal on all ranks."""
    heartbeat.phase("opening the run folder and the manifests")
    ds = resolve_ds_config(run, world.size)
    folder = RunFolder.open(run_dir, run, ds.config, world)
    tokenizer = AlbefTokenizer()
    num_lanes = run.batch.num_lanes
    manifest = read_manifest(run.data.manifests, check_shards=run.data.shard_opener is None)
    check_same_data(folder, manifest, world)
    loader = PretrainLoader(
        manifest,
        data=run.data,
        model=run.model,
        objective=run.objective,
        tokenizer=tokenizer,
        seed=run.seed,
        micro_batch_size=run.batch.micro_batch_size,
        num_lanes=num_lanes,
        lanes=lanes_of_rank(world.rank, world.size, num_lanes),
        pin_memory=world.device.type == "cuda",
    )
    warn_of_shared_memory(loader, world)
    heartbeat.phase("building the model")
    torch.manual_seed(seeds.derive(run.seed, "weights"))  # the same weights on every rank
    student = AlbefForPretraining(run.model, run.objective)
    for report in initialise(student, run.init):
        log.info("%s", report)
    student.to(world.device).train()
    # Before the engine, which casts the student's weights to bf16: the teacher's stay fp32.
    teacher = MomentumTeacher(student, device=world.device, compute_dtype=ds.compute_dtype)
    queue = FeatureQueue(
        run.objective.queue_size,
        run.model.embed_dim,
        seed=seeds.derive(run.seed, "queue"),
        device=world.device,
    )
    heartbeat.phase("starting DeepSpeed")
    optimizer = build_optimizer(student, run.optim, device=world.device)
    engine, *_ = deepspeed.initialize(model=student, optimizer=optimizer, config=ds.config, dist_init_required=False)
    total_steps = run.total_steps(loader.steps_per_epoch)
    return Training(
        run=run,
        world=world,
        folder=folder,
        ds=ds,
        engine=engine,
        teacher=teacher,
        queue=queue,
        loader=loader,
        saver=CheckpointSaver(
            folder=folder.checkpoints,
            config=run.checkpoint,
            world=world,
            engine=engine,
            teacher=teacher,
            queue=queue,
        ),
        validator=Validator(run.validation, run.model, tokenizer, world),
        metrics=build_metrics(run, folder, world, ds, total_steps=total_steps),
        heartbeat=heartbeat,
        skipped=SkippedSteps(folder.skipped, run.watch, world),
        slow=SlowSteps(run.watch.slow_step_factor, world),
        tokenizer=tokenizer,
        total_steps=total_steps,
    )


def warn_of_shared_memory(loader: PretrainLoader, world: World) -> None:
    """Log when the workers of this machine's ranks may find too little of /dev/shm; a collective."""
    ranks_here = world.gather_objects(socket.gethostname()).count(socket.gethostname())
    short = shared_memory.shortage(loader.shared_memory_bytes * ranks_here)
    if short and world.local_rank == 0:
        log.warning("%s: %s", short, shared_memory.HINT)


def build_metrics(
    run: RunConfig, folder: RunFolder, world: World, ds: ResolvedDeepSpeed, *, total_steps: int
) -> Metrics:
    """The run's scalars; on a GPU with what MFU needs, counted once (on the CPU `bench step` tells it)."""
    flops, peak = 0.0, 0.0
    if world.is_main and world.device.type == "cuda":
        flops = flops_per_sample(run.model, run.objective, batch_size=run.batch.micro_batch_size)
        peak, source = peak_flops(world.device, ds.compute_dtype)
        log.info("%.1f GFLOP a sample, peak %.0f TFLOP/s (%s)", flops / 1e9, peak / 1e12, source)
    return Metrics(
        run.logging,
        folder,
        world,
        total_steps=total_steps,
        batch=run.batch.global_batch_size,
        flops_per_sample=flops,
        peak_flops=peak,
    )


def fit(training: Training, stop: StopSignals) -> int:
    """Step after step from `start_step`; log, validate, save when due. Returns the exit code."""
    run, metrics, heartbeat = training.run, training.metrics, training.heartbeat
    if training.start_step >= training.total_steps:
        log.info("%s has taken its %d steps already", run.name, training.total_steps)
        return 0
    if training.start_step == 0:
        validate(training, step=0)
    training.skipped.begin_at(training.start_step)
    heartbeat.phase("waiting for data", step=training.start_step)
    metrics.start(training.start_step)
    for batches in timed(training.loader.steps(training.start_step), metrics):
        losses, scalars = train_step(training, batches)
        done = batches.step + 1
        heartbeat.phase("between steps", step=done)
        last = done >= training.total_steps
        metrics.record(done, losses, epoch=batches.epoch, skipped=batches.skipped, scalars=scalars)
        training.slow.note(done, *metrics.step_s, batches.lanes[0].keys)
        if due(done, run.objective.queue_check_every):
            training.queue.assert_equal_across_ranks()
        stopping = stop.agreed() and not last
        if last or due(done, run.validation.every_steps):
            validate(training, step=done)
        too_many_skipped = training.skipped.too_many
        leaving = last or stopping or too_many_skipped
        training.saver.publish_if_written()
        if leaving or due(done, run.checkpoint.save_every):
            heartbeat.phase("saving")
            try:
                save(training, step=done, epoch=batches.epoch, wait=leaving)
            finally:
                if too_many_skipped:  # also when this save failed, which the log reports
                    raise training.skipped.error()
        if last:
            log.info("%s has taken its %d steps", run.name, training.total_steps)
            return 0
        if stopping:
            log.info("told to stop by %s: saved at step %d of %d", stop.reason, done, training.total_steps)
            return STOPPED_AND_SAVED
        heartbeat.phase("waiting for data")
    raise AssertionError("the loader is endless")


def train_step(training: Training, batches: StepBatches) -> tuple[Tensor | None, dict[str, Any]]:
    """One optimizer step over this rank's lanes (paper, section 3; the original's order of events).

    Updating the teacher after the optimizer step is the same sequence as the original's update at the start of the
    next forward. With accumulation, queue and teacher advance once a step, and every lane sees the queue as it was.
    A step whose losses or gradient are not finite on any rank moves nothing on all of them: no weight, moment, teacher
    or queue; only its batch counts as seen.

    Returns:
        (5,) means over this rank's lanes of total, itc, itm, mlm loss and matching accuracy, on the device, None for a
        skipped step; and what is equal on all ranks: rate, alpha, temperature, gradient norm, skipped steps.
    """
    run, world, engine = training.run, training.world, training.engine
    teacher, queue, step = training.teacher, training.queue, batches.step
    steps_per_epoch = training.loader.steps_per_epoch
    ramp_epochs = run.schedule.alpha_ramp_epochs
    alpha = alpha_at(step, run.objective.alpha, steps_per_epoch=steps_per_epoch, ramp_epochs=ramp_epochs)
    lr = lr_at(step, run.schedule, lr=run.optim.lr, steps_per_epoch=steps_per_epoch, total_steps=training.total_steps)
    set_lr(engine, lr)
    temperature = engine.module.clamped_temperature().detach()
    lanes, lane_losses = training.loader.lanes, []
    to_show: tuple[PretrainBatch, TeacherTargets] | None = None
    for lane, host_batch in zip(lanes, batches.lanes, strict=True):
        training.heartbeat.phase("forward and backward")
        batch = host_batch.to(world.device, non_blocking=True)
        torch.manual_seed(seeds.derive(run.seed, "dropout", batches.epoch, step, lane))
        targets = teacher.targets(batch, queue, temperature)
        queue.gather(targets.image_feat, targets.text_feat, num_lanes=len(lanes))
        losses = engine(batch, targets, queue, alpha)
        engine.backward(losses.total)
        lane_losses.append(torch.stack([loss.detach() for loss in losses[:5]]))
        if lane == 0 and training.metrics.images_due(step + 1):
            to_show = batch, targets
        if lane != lanes[-1]:
            engine.step()  # counts the lane; the weights move after the last one
    training.heartbeat.phase("taking the step")
    check = check_step(engine, torch.stack(lane_losses), world)
    take_step(engine, check, clip_grad_norm=run.optim.clip_grad_norm)
    if check.skipped:
        queue.discard()
        training.skipped.record(batches, lanes, check, step_facts(training, alpha, temperature))
    else:
        queue.enqueue()
        teacher.update(engine.module)
        training.skipped.taken()
        if to_show:
            show(training, *to_show, step + 1)
    # float64: exact sums of a few fp32 losses, so the lanes may be added in any order, on any rank
    return None if check.skipped else check.losses.double().sum(dim=0) / len(lanes), {
        "optim/lr": lr,
        "optim/grad_norm": check.norm,
        "optim/skipped_steps": engine.skipped_steps,
        "train/alpha": alpha,
        "train/temperature": temperature,
        "speed/slow_steps": training.slow.total,
    }


def resume_run(training: Training, resume: str) -> None:
    """Load the newest whole checkpoint of the run folder, if there is one; every rank takes the same."""
    world, folder = training.world, training.folder
    found = world.broadcast_object(find_on_main(folder.checkpoints) if world.is_main else None)
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
        training.engine,
        training.teacher,
        training.queue,
        world=world,
        zero_stage=training.ds.stage,
        precision=training.ds.precision,
    )
    training.start_step = meta.step
    training.metrics.open_at_step(meta.step)
    log.info("going on from %s: step %d of %d", path, meta.step, training.total_steps)


def find_on_main(checkpoints: Path) -> tuple[Path, checkpoint.CheckpointMeta] | CheckpointError | None:
    """What rank 0 found, or the error for all ranks to raise: one that raised alone would leave the others waiting."""
    try:
        return checkpoint.find_checkpoint(checkpoints)
    except CheckpointError as error:
        return error


def save(training: Training, *, step: int, epoch: int, wait: bool) -> None:
    """Begin to save `step` finished steps; with `wait` (the last step, a told stop) until it is published."""
    run, saver = training.run, training.saver
    meta = checkpoint.new_meta(
        run_name=run.name,
        step=step,
        epoch=epoch,
        samples_seen=step * run.batch.global_batch_size,
        world_size=training.world.size,
        zero_stage=training.ds.stage,
        precision=training.ds.precision,
        config_hash=run.hash(),
    )
    if wait:
        saver.save_now(meta)
    else:
        saver.start(meta)
        if not run.checkpoint.asynchronous:
            saver.finish()


def validate(training: Training, *, step: int) -> None:
    """Zero-shot retrieval on the validation pairs, with the student; logged under `val/`."""
    if scalars := training.validator.run(training.engine.module, training.heartbeat.progress):
        training.metrics.write(step, scalars)


def show(training: Training, batch: PretrainBatch, targets: TeacherTargets, step: int) -> None:
    """Samples and the teacher's pseudo-targets beside the ground truth (paper, figure 2), to TensorBoard."""
    for tag, picture in training_pictures(batch, targets, training.tokenizer).items():
        training.metrics.image(tag, picture, step)
    for tag, table in training_tables(batch, targets, training.tokenizer).items():
        training.metrics.text(tag, table, step)


def step_facts(training: Training, alpha: float, temperature: Tensor) -> StepFacts:
    """What a dump of a skipped step says beside the batches."""
    return StepFacts(
        seed=training.run.seed,
        alpha=alpha,
        temperature=temperature.item(),
        zero_stage=training.ds.stage,
        precision=training.ds.precision,
        config_hash=training.run.hash(),
    )


def due(step: int, every: int) -> bool:
    """Whether something done every so many steps is to be done after `step` steps; 0 is never."""
    return bool(every) and step % every == 0


def set_lr(engine: Any, lr: float) -> None:
    """Set the rate of every parameter group for the step to come."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr


def timed(steps: Iterator[StepBatches], metrics: Metrics) -> Iterator[StepBatches]:
    """The loader's steps, with the time spent waiting for them recorded."""
    while True:
        began = time.monotonic()
        batches = next(steps)
        metrics.data_wait(time.monotonic() - began)
        yield batches
