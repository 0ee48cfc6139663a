"""Do our step and the plain step learn alike? Loss curves over 200 steps on the demo's pictures, side by side.

    python -m benchmarks.loss_curves [--device cpu] [--steps 200] [--batch 32] [--only NAME,NAME] [--show FILE]

Each curve is a process of its own (`benchmarks.curve`): our step in fp32, in bf16, compiled and with dropout, and the
step of `benchmarks.baseline` in fp32, under autocast and with dropout, all from the same weights, on the same batches
and with the same negatives, which the first curve draws. Two more are our step with every Triton kernel on and with
every one off, the latter drawing the negatives; on a CPU a few steps of a narrower model, because Triton's interpreter
takes seconds for one. The measure: means of each loss over windows of 20 steps, and the largest difference of such a
mean from the reference's, as a share of it. Beside it stands what the reference differs by from itself when dropout
draws other masks. Writes benchmarks/results/DATE-loss-curves-DEVICE.json after each curve and prints the table of
README.md; with --show nothing runs. Three quarters of an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu import LOGS, Part, chosen, new_file, run_part, shown
from benchmarks.speed import markdown

WINDOW = 20
"""Steps of a mean."""
LIMIT_S = 1_800
"""For one curve, on a busy machine."""
ENVIRONMENT = (sys.executable, "-m", "benchmarks.environment")
PLAIN, PLAIN_DROPOUT = "plain-fp32", "plain-dropout"
KERNELS_ON, KERNELS_OFF = "ours-triton", "ours-torch"
REFERENCES = {"ours-dropout": PLAIN_DROPOUT, "plain-dropout-again": PLAIN_DROPOUT, KERNELS_ON: KERNELS_OFF}
"""Of curves that do not stand beside the baseline in fp32."""
NO_DROPOUT = ("--model.hidden_dropout=0", "--model.attention_dropout=0")
DROPOUT = ("--model.hidden_dropout=0.1", "--model.attention_dropout=0.1")
FP32, BF16 = "--deepspeed.config=zero1_fp32", "--deepspeed.config=zero1_bf16"
NARROW = ("--model.text_width=32", "--model.text_heads=2", "--model.text_ffn_width=128")
"""What Triton's interpreter gets through in a few minutes: it goes tile by tile over vocabulary and text width."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--only", help="names of curves, with commas between them, and those that draw their negatives")
    parser.add_argument("--into", type=Path, metavar="FILE", help="replace these curves of a file, keep its others")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the table of a file of results")
    args = parser.parse_args(argv)
    if args.show:
        print(table(json.loads(args.show.read_text())["curves"]))
        return 0
    groups = curve_groups(args.device, steps=args.steps, batch=args.batch, folder=LOGS / "loss-curves")
    every = [part for group in groups for part in group]
    wanted = {part.name for part in (chosen(parser, every, args.only) if args.only else every)}
    parts = [part for group in groups for part in with_first(group, wanted)]
    results = args.into or new_file(f"loss-curves-{args.device}")
    rows = json.loads(results.read_text())["curves"] if args.into else []
    logs = LOGS / results.stem
    machine = run_part(Part(name="environment", words=ENVIRONMENT, limit_s=60), logs, 60)
    failed = False
    for part in parts:
        outcome = run_part(part, logs, LIMIT_S)
        failed |= outcome.failed
        commit = (machine.figures or {}).get("commit")
        rows = [row for row in rows if row["part"] != part.name] + [{"commit": commit, **asdict(outcome)}]
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(as_json(rows, machine.figures, order=[part.name for part in every]))
    print(f"\n{table(rows)}\n\ncurves: {shown(results)}")
    return int(failed)


def curve_groups(device: str, *, steps: int, batch: int, folder: Path) -> list[list[Part]]:
    """The curves, in groups with the same negatives, which the first of each group draws."""
    folder.mkdir(parents=True, exist_ok=True)
    size: tuple[str, ...] = ("--steps", str(steps), "--batch", str(batch))
    kernels_size, interpreted = size, dict[str, str]()
    if device == "cpu":
        kernels_size = ("--steps", str(min(steps, 20)), "--batch", str(min(batch, 8)), *NARROW)
        interpreted = {"TRITON_INTERPRET": "1"}
    learned: dict[str, tuple[str, ...]] = {
        "ours-fp32": ("ours", FP32, *NO_DROPOUT),
        "ours-bf16": ("ours", BF16, *NO_DROPOUT),
        "ours-fp32-compiled": ("ours", FP32, *NO_DROPOUT, "--model.compile=true"),
        "ours-dropout": ("ours", FP32, *DROPOUT),
        PLAIN: ("plain", *NO_DROPOUT),
        "plain-autocast": ("plain", *NO_DROPOUT, "--autocast"),
        PLAIN_DROPOUT: ("plain", *DROPOUT),
        "plain-dropout-again": ("plain", *DROPOUT, "--dropout-seed", "1"),
    }
    kernels: dict[str, tuple[str, ...]] = {
        KERNELS_OFF: ("ours", FP32, *NO_DROPOUT, "--model.kernels=torch"),
        KERNELS_ON: ("ours", FP32, *NO_DROPOUT, "--model.kernels=triton"),
    }
    groups = []
    for curves, sizes, environment in ((learned, size, dict[str, str]()), (kernels, kernels_size, interpreted)):
        first, group = next(iter(curves)), list[Part]()
        for name, (side, *flags) in curves.items():
            words = [sys.executable, "-m", "benchmarks.curve", side, "--device", device, *sizes, *flags]
            words += ["--save-negatives" if name == first else "--negatives", str(folder / f"{first}.negatives.pt")]
            group.append(Part(name=name, words=words, limit_s=LIMIT_S, environment=environment))
        groups.append(group)
    return groups


def with_first(group: Sequence[Part], names: Collection[str]) -> list[Part]:
    """The curves of a group that have these names and, if any has, the one that draws their negatives."""
    found = [part for part in group if part.name in names]
    return found if not found or found[0] is group[0] else [group[0], *found]


def as_json(rows: Sequence[Mapping[str, Any]], environment: Mapping[str, Any] | None, *, order: Sequence[str]) -> str:
    """A line for each curve: two hundred losses a line read better than two hundred lines."""
    lines = ",\n".join(json.dumps(row) for row in sorted(rows, key=lambda row: order.index(row["part"])))
    head = json.dumps({"window": WINDOW, "environment": environment}, indent=1)
    return f'{head[:-2]},\n "curves": [\n{lines}\n]}}\n'


def windows(losses: Sequence[float]) -> list[float]:
    """Means over consecutive windows of 20 steps; of fewer, when there are fewer, one mean."""
    width = min(WINDOW, len(losses))
    return [sum(losses[at : at + width]) / width for at in range(0, len(losses) - width + 1, width)]


def differences(curve: Mapping[str, Sequence[float]], reference: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """For each loss the largest difference between windows of both, as a share of the reference's; over the steps that
    both have."""
    found = {}
    for name, losses in curve.items():
        pairs = zip(windows(losses), windows(reference[name][: len(losses)]), strict=True)
        found[name] = max(abs(ours - theirs) / theirs for ours, theirs in pairs)
    return found


def table(curves: Sequence[Mapping[str, Any]]) -> str:
    """A row for each curve beside its reference; width is that of the text encoder. One row is the reference beside
    itself with other masks of dropout."""
    found = {one["part"]: one["figures"] for one in curves if one["figures"]}
    rows = []
    for name, figures in found.items():
        reference, curve = REFERENCES.get(name, PLAIN), figures["curve"]
        if name in {PLAIN, PLAIN_DROPOUT, KERNELS_OFF} or reference not in found:
            continue
        apart = differences(curve, found[reference]["curve"])
        last = {loss: windows(losses)[-1] for loss, losses in curve.items()}
        rows.append(
            (
                name,
                reference,
                len(curve["itc"]),
                figures["batch"],
                figures["text_width"],
                *(f"{100 * apart[loss]:.3f}" for loss in ("itc", "itm", "mlm")),
                *(f"{last[loss]:.3f}" for loss in ("itc", "itm", "mlm")),
            )
        )
    head = ("curve", "beside", "steps", "batch", "width", "ITC %", "ITM %", "MLM %", "last ITC", "ITM", "MLM")
    return markdown(head, rows)


if __name__ == "__main__":
    sys.exit(main())
