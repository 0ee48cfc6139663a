"""One loss curve on the demo's pictures: of the trainer's step, or of the plain step.

    python -m benchmarks.curve {ours,plain} --steps 200 --batch 32 [--negatives FILE] [--KEY VALUE ...]

`benchmarks.loss_curves` runs several. Both sides start from the same weights and the same queue and see the same
batches, made by the trainer's own code from (seed, step). With the same negatives too, nothing is left that may differ
but arithmetic and dropout. Prints one JSON object with the losses of each step.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albef.inputs.batch import PretrainBatch
from albef.inputs.tokenizer import AlbefTokenizer
from benchmarks.baseline import BaselineStep
from demo.pictures import PictureArchive, read_pictures
from pipeline.config.resolve import load_config
from pipeline.config.run_config import PretrainingRun
from pipeline.config.sections import ValidationConfig
from pipeline.data import seeds
from pipeline.data.corpus.reader import RawSample
from pipeline.engine.distributed import World
from pipeline.engine.optim import split_names
from pipeline.engine.schedule import alpha_at, lr_at
from pipeline.tasks.pretraining.collate import PretrainBatcher
from pipeline.tasks.pretraining.maker import PRETRAINING

LOSSES = ("itc", "itm", "mlm")
Curve = dict[str, list[float]]
"""Nats of each loss, by step."""
Negatives = list[tuple[Tensor, Tensor]]
"""For each step a negative image of each text, (B,), and a negative text of each image."""
FIXED = ("--optim.clip_grad_norm=null", "--schedule.alpha_ramp_epochs=0.25")
"""The plain step does not clip. Alpha has risen after a quarter of the steps, so that most have soft targets."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["ours", "plain"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32, help="samples of a step, one lane")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--negatives", type=Path, help="take them from this file instead of drawing them")
    parser.add_argument("--save-negatives", type=Path, help="write those that were drawn (ours)")
    parser.add_argument("--autocast", action="store_true", help="plain: in bf16 where torch.autocast does so")
    parser.add_argument("--dropout-seed", type=int, default=0, help="plain: another one draws other masks of dropout")
    args, keys = parser.parse_known_args(argv)
    run = recipe(keys, steps=args.steps, batch=args.batch)
    negatives = torch.load(args.negatives, weights_only=True) if args.negatives else None
    if args.side == "plain":
        curve = plain_curve(
            run, device=args.device, negatives=negatives, autocast=args.autocast, dropout_seed=args.dropout_seed
        )
    else:
        os.environ["DS_ACCELERATOR"] = args.device
        with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed prints notes of its own
            curve, drawn = our_curve(run, negatives=negatives)
        if args.save_negatives:
            torch.save(drawn, args.save_negatives)
    rounded = {name: [round(loss, 6) for loss in losses] for name, losses in curve.items()}
    print(json.dumps({"batch": args.batch, "text_width": run.model.text_width, "curve": rounded}))


def recipe(keys: Sequence[str], *, steps: int, batch: int) -> PretrainingRun:
    """The demo's recipe for `steps` steps of one lane, without validation."""
    sizes = [f"--batch.global_batch_size={batch}", f"--batch.micro_batch_size={batch}", f"--max_steps={steps}"]
    run = load_config("demo", [*FIXED, *sizes, *keys])
    return dataclasses.replace(run, validation=ValidationConfig())


def batches(run: PretrainingRun, steps: int) -> Iterator[PretrainBatch]:
    """The demo's training pictures in an order drawn from the seed, augmented and masked as in training."""
    batcher = PretrainBatcher(
        model=run.model.shape,
        objective=run.objective,
        augment=run.data.augment,
        max_caption_words=run.data.max_caption_words,
        tokenizer=AlbefTokenizer(),
    )
    pictures, archive = read_pictures("train"), PictureArchive()
    size, per_epoch = run.batch.micro_batch_size, len(pictures) // run.batch.micro_batch_size
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        order = torch.randperm(len(pictures), generator=seeds.generator(run.seed, "curve", epoch)).tolist()
        chosen = [pictures[index] for index in order[place * size : (place + 1) * size]]
        examples = [
            batcher.example(
                RawSample(name=one.image, jpg=archive.read(one.image), captions=list(one.captions)),
                seed=run.seed,
                epoch=epoch,
            )
            for one in chosen
        ]
        yield batcher.batch(examples, seed=run.seed, epoch=epoch, step=step, lane=0)
    archive.close()


def our_curve(run: PretrainingRun, *, negatives: Negatives | None = None) -> tuple[Curve, Negatives]:
    """`run.max_steps` steps of `pipeline.train.train_step` with the engine that training builds.

    Returns: the losses, and the negatives of each step.
    """
    from pipeline.data.loader import StepBatches
    from pipeline.engine import distributed
    from pipeline.planning.bench_engine import build_parts
    from pipeline.train import train_step

    steps = run.total_steps(1)
    world = distributed.init()
    try:
        parts = dataclasses.replace(build_parts(run, world), steps_per_epoch=steps, total_steps=steps)
        drawn = replace_negatives(parts.engine, negatives)
        rows = []
        for step, batch in enumerate(batches(run, steps)):
            result = train_step(parts, StepBatches(step=step, epoch=0, lanes=[batch], skipped={}), lambda part: None)
            assert result.losses is not None, f"step {step} was skipped: its losses or its gradient are not finite"
            rows.append(result.losses)
        names = [f"loss_{name}" for name in LOSSES]
        table = torch.stack(rows).tolist()  # (steps, losses)
        where = [parts.task.loss_names.index(name) for name in names]
        return {name: [row[at] for row in table] for name, at in zip(LOSSES, where, strict=True)}, drawn
    finally:
        distributed.shutdown()


def replace_negatives(engine: torch.nn.Module, negatives: Negatives | None) -> Negatives:
    """Have every forward take the next of `negatives`, or draw its own where there are none; returns those of each."""
    used: Negatives = []

    def give(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if negatives is not None:
            device = args[0].image.device
            image, text = negatives[len(used)]
            kwargs = {**kwargs, "negative_indices": (image.to(device), text.to(device))}
        return args, kwargs

    def keep(_: object, args: object, output: Any) -> None:
        used.append((output.negative_image.cpu(), output.negative_text.cpu()))

    engine.register_forward_pre_hook(give, with_kwargs=True)
    engine.register_forward_hook(keep)
    return used


def plain_curve(
    run: PretrainingRun,
    *,
    device: str = "cpu",
    negatives: Negatives | None = None,
    autocast: bool = False,
    dropout_seed: int = 0,
) -> Curve:
    """The same number of steps of `benchmarks.baseline`, from the same weights and queue, at the same rates."""
    steps, world = run.total_steps(1), World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
    task: Any = PRETRAINING.make(run, world, torch.float32)
    plain = BaselineStep(
        run.model.shape,
        run.objective,
        task.model.state_dict(),
        torch.stack([task.queue.image, task.queue.text]),
        device=device,
        lr=run.optim.lr,
        weight_decay=run.optim.weight_decay,
        betas=run.optim.betas,
        eps=run.optim.eps,
        decayed=set(split_names(task.model.named_parameters(), run.optim.decay_groups)[1]),
        autocast=autocast,
    )
    rows = []
    for step, batch in enumerate(batches(run, steps)):
        for group in plain.optimizer.param_groups:
            group["lr"] = lr_at(step, run.schedule, lr=run.optim.lr, steps_per_epoch=steps, total_steps=steps)
        alpha = alpha_at(step, run.objective.alpha, steps_per_epoch=steps, ramp_epochs=run.schedule.alpha_ramp_epochs)
        given = None
        if negatives is not None:
            image, text = negatives[step]
            given = image.to(device), text.to(device)
        torch.manual_seed(seeds.derive(run.seed, "plain", dropout_seed, step))
        rows.append(torch.stack(plain(batch.to(device), alpha=alpha, negatives=given)))
    return {name: losses.tolist() for name, losses in zip(LOSSES, torch.stack(rows).double().T, strict=True)}


if __name__ == "__main__":
    main()
