"""Take a skipped step again, from its dump, and show where and with which samples it goes wrong.

Needs no engine and one device: the lanes of all ranks are taken one after another, by `Task.losses` as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from albef.errors import CheckpointError
from pipeline.checkpoints.layout import find_checkpoint, saved_steps, step_tag
from pipeline.checkpoints.meta import CheckpointMeta
from pipeline.data.seeds import derive
from pipeline.engine.distributed import local_device
from pipeline.task import LaneStep, Task
from pipeline.watch.nonfinite import LaneReport, run_lane
from pipeline.watch.skipped_step_dump import Dump

SHOWN = 8
"""Samples, or gradients, that the text shows of a lane. The JSON has all."""


@dataclass(frozen=True, kw_only=True)
class Replayable:
    """A task with the weights of a checkpoint, without an engine, and how it reads a dump."""

    task: Task
    checkpoint: Path
    meta: CheckpointMeta
    modules: Mapping[str, nn.Module]
    """What computes in a lane, by the names under which it is reported."""
    batch_of: Callable[[Mapping[str, Any]], Any]
    """Makes a lane's batch of its fields (`Dump.batches`); `only(index)` of it is a batch of one of its samples."""


MakeReplayable = Callable[[Path, Dump, torch.device, torch.dtype], Replayable]
"""Called with a checkpoint, the dump that is to be taken again, the device, and the type of the arithmetic."""


def nearest_checkpoint(dump: Dump) -> Path:
    """The whole checkpoint whose weights are those of the skipped step, else the newest before it.

    Raises: CheckpointError when the run has neither.
    """
    folder = dump.path.resolve().parent.parent / "checkpoints"
    usable = [step for step in saved_steps(folder) if steps_away(dump, step) >= 0]
    found = find_checkpoint(folder, sorted(usable, key=lambda step: steps_away(dump, step)))
    if found is None:
        raise CheckpointError(
            f"{folder} holds no checkpoint of step {dump.step - 1} or before it",
            "give one with --checkpoint; weights that are only similar may still show which samples are to blame",
        )
    return found[0]


def steps_away(dump: Dump, step: int) -> int:
    """Steps that moved the weights between a checkpoint and the skipped step; negative when the checkpoint is later.

    A skipped step leaves the weights as they were: a checkpoint of a later step will do when all up to it were skipped.
    """
    last = dump.step
    while (dump.path.resolve().parent / step_tag(last + 1)).is_dir():
        last += 1
    return dump.step - 1 - step if step < dump.step else min(0, last - step)


def replay(dump: Dump, checkpoint: Path, make: MakeReplayable, *, device: str, precision: str) -> dict[str, Any]:
    """Take every lane of the dump with a checkpoint's weights, and the samples of each bad lane one by one.

    Args:
        device: as evaluate's.
        precision: fp32 or bf16.

    Returns: the report, ready for JSON but for numbers that are not finite.
    """
    facts, where = dump.facts, local_device(device)
    again = make(checkpoint, dump, where, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
    lanes = []
    for recorded in facts["lanes"]:
        lane, batch = recorded["lane"], again.batch_of(dump.batches[recorded["lane"]]).to(where)
        at = LaneStep(step=facts["index"], epoch=facts["epoch"], lane=lane, num_lanes=1, steps_per_epoch=1)
        seed = derive(facts["seed"], "dropout", facts["epoch"], facts["index"], lane)
        whole = run_lane(again.task, again.modules, batch, at, seed=seed)
        was_bad = any(isinstance(value, str) for value in recorded["losses"].values())
        samples = []
        if not whole.finite or was_bad:
            for index, key in enumerate(batch.keys):
                alone = run_lane(again.task, again.modules, batch.only(index), at, seed=seed)
                samples.append({"key": key, "caption": batch.captions[index]} | _summary(alone, [key]))
            samples.sort(key=lambda sample: (sample["finite"], -sample["gradient_norm"]))
        lanes.append(
            {"lane": lane, "recorded": recorded["losses"]} | _summary(whole, batch.keys) | {"samples": samples}
        )
    return {
        "dump": str(dump.path),
        "step": dump.step,
        "epoch": facts["epoch"],
        "not_finite": [line for lane in facts["lanes"] for line in _words_of(lane)],
        "gradient_norm": facts["gradient_norm"],
        "checkpoint": str(again.checkpoint),
        "steps_away": steps_away(dump, again.meta.step),
        "precision": precision,
        "device": str(where),
        "lanes": lanes,
    }


def _summary(found: LaneReport, keys: list[str]) -> dict[str, Any]:
    return {
        "finite": found.finite,
        "losses": found.losses,
        "gradient_norm": found.gradient_norm,
        "first_not_finite": found.first,
        # a sample of two images has two rows
        "in_samples": list(dict.fromkeys(keys[row % len(keys)] for row in found.rows)),
        "gradients_not_finite": found.bad_gradients,
        "num_gradients": found.num_gradients,
    }


def _words_of(lane: dict[str, Any]) -> list[str]:
    """What the run saw of a lane that was not finite; such numbers are words in the dump."""
    return [f"lane {lane['lane']}: {name} {value}" for name, value in lane["losses"].items() if isinstance(value, str)]


def text_of(report: dict[str, Any]) -> str:
    """The report for people."""
    away = report["steps_away"]
    whose = f"{away:,} steps before it" if away > 0 else "of a later step" if away else "those of that step"
    seen = "; ".join(report["not_finite"] + [f"gradient norm {report['gradient_norm']}"])
    lines = [
        f"step {report['step']:,} (epoch {report['epoch']}) was skipped: {seen}",
        f"taken again with the weights of {report['checkpoint']}, {whose}, in {report['precision']} on "
        f"{report['device']}",
    ]
    for lane in report["lanes"]:
        lines.append(f"lane {lane['lane']}: {_numbers(lane)}" + (", all finite" if lane["finite"] else ""))
        if lane["first_not_finite"]:
            where = f", in {', '.join(lane['in_samples'][:SHOWN])}" if lane["in_samples"] else ""
            lines.append(f"  first not finite: {lane['first_not_finite']}{where}")
        if bad := lane["gradients_not_finite"]:
            lines.append(f"  gradients not finite: {len(bad)} of {lane['num_gradients']}, first {', '.join(bad[:3])}")
        if lane["samples"]:
            lines.append("  its samples one by one, the most suspicious first:")
        for sample in lane["samples"][:SHOWN]:
            verdict = "finite alone" if sample["finite"] else f"NOT FINITE: {sample['first_not_finite'] or 'gradient'}"
            lines.append(f"    {sample['key']}  {verdict}; {_numbers(sample)}; {sample['caption']!r}")
    if all(lane["finite"] for lane in report["lanes"]):
        lines.append(
            "nothing went wrong this time: "
            + ("those weights are not the ones that met this batch" if away else "the fault may be the machine's")
            + ("" if report["precision"] == "bf16" else "; --precision bf16 takes it as a bf16 run does")
        )
    return "\n".join(lines)


def _numbers(found: dict[str, Any]) -> str:
    parts = [f"{name.removeprefix('loss_')} {value:.4g}" for name, value in found["losses"].items()]
    return f"{' '.join(parts)}, gradient norm {found['gradient_norm']:.4g}"
