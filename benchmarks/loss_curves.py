"""Do our step and the plain step learn alike? Loss curves over 200 steps on the demo's pictures, side by side.

    python -m benchmarks.loss_curves [--device cpu] [--steps 200] [--batch 32] [--only NAME,NAME] [--show FILE]

Each curve is a process of its own (`benchmarks.curve`): our step in fp32, in bf16, compiled and with dropout, and the
step of `benchmarks.baseline` in fp32, under autocast and with dropout, all from the same weights, on the same batches
and with the same negatives, which the first curve draws. The measure: means of each loss over windows of 20 steps, and
the largest difference of such a mean from the reference's, as a share of it. Beside it stands what the reference
differs by from itself when dropout draws other masks. Writes benchmarks/results/DATE-loss-curves-DEVICE.json after
each curve and prints the table of README.md; with --show nothing runs. Half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu import LOGS, Outcome, Part, chosen, new_file, run_part, shown
from benchmarks.speed import markdown

WINDOW = 20
"""Steps of a mean."""
LIMIT_S = 1_800
"""For one curve, on a busy machine."""
DRAWS, PLAIN, PLAIN_DROPOUT = "ours-fp32", "plain-fp32", "plain-dropout"
NO_DROPOUT = ("--model.hidden_dropout=0", "--model.attention_dropout=0")
DROPOUT = ("--model.hidden_dropout=0.1", "--model.attention_dropout=0.1")
FP32, BF16 = "--deepspeed.config=zero1_fp32", "--deepspeed.config=zero1_bf16"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--only", help=f"names of curves, with commas between them, beside {DRAWS} (default: all)")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the table of a file of results")
    args = parser.parse_args(argv)
    if args.show:
        print(table(json.loads(args.show.read_text())["curves"]))
        return 0
    parts = curve_parts(args.device, steps=args.steps, batch=args.batch, folder=LOGS / "loss-curves")
    if args.only:
        first, *others = parts
        parts = [first, *chosen(parser, others, args.only)]
    results = new_file(f"loss-curves-{args.device}")
    outcomes: list[Outcome] = []
    for part in [Part(name="environment", words=[sys.executable, "-m", "benchmarks.environment"], limit_s=60), *parts]:
        outcomes.append(run_part(part, LOGS / results.stem, LIMIT_S))
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(as_json(outcomes, steps=args.steps, batch=args.batch))
    print(f"\n{table(json.loads(results.read_text())['curves'])}\n\ncurves: {shown(results)}")
    return int(any(outcome.failed for outcome in outcomes))


def curve_parts(device: str, *, steps: int, batch: int, folder: Path) -> list[Part]:
    """The curves, the one that draws the negatives first."""
    folder.mkdir(parents=True, exist_ok=True)
    negatives = folder / "negatives.pt"
    ours: dict[str, tuple[str, ...]] = {
        DRAWS: (FP32, *NO_DROPOUT, "--save-negatives", str(negatives)),
        "ours-bf16": (BF16, *NO_DROPOUT),
        "ours-fp32-compiled": (FP32, *NO_DROPOUT, "--model.compile=true"),
        "ours-dropout": (FP32, *DROPOUT),
    }
    plain: dict[str, tuple[str, ...]] = {
        PLAIN: NO_DROPOUT,
        "plain-autocast": (*NO_DROPOUT, "--autocast"),
        PLAIN_DROPOUT: DROPOUT,
        "plain-dropout-again": (*DROPOUT, "--dropout-seed", "1"),
    }
    parts = []
    for side, cases in (("ours", ours), ("plain", plain)):
        for name, flags in cases.items():
            words = [sys.executable, "-m", "benchmarks.curve", side, "--device", device]
            words += ["--batch", str(batch), "--steps", str(steps)]
            words += [] if name == DRAWS else ["--negatives", str(negatives)]
            parts.append(Part(name=name, words=[*words, *flags], limit_s=LIMIT_S))
    return parts


def as_json(outcomes: Sequence[Outcome], *, steps: int, batch: int) -> str:
    """A line for each curve: two hundred losses a line read better than two hundred lines."""
    machine, *curves = [asdict(outcome) for outcome in outcomes]
    rows = ",\n".join(json.dumps(curve) for curve in curves)
    head = json.dumps({"steps": steps, "batch": batch, "window": WINDOW, "environment": machine["figures"]}, indent=1)
    return f'{head[:-2]},\n "curves": [\n{rows}\n]}}\n'


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
    """A row for each curve beside its reference, and a row of the reference beside itself with other masks."""
    found = {one["part"]: one["figures"]["curve"] for one in curves if one["figures"]}
    rows = []
    for name, curve in found.items():
        reference = PLAIN_DROPOUT if "dropout" in name else PLAIN
        if name == reference or reference not in found:
            continue
        apart = differences(curve, found[reference])
        last = {loss: windows(losses)[-1] for loss, losses in curve.items()}
        rows.append(
            (
                name,
                reference,
                len(curve["itc"]),
                *(f"{100 * apart[loss]:.3f}" for loss in ("itc", "itm", "mlm")),
                *(f"{last[loss]:.3f}" for loss in ("itc", "itm", "mlm")),
            )
        )
    head = ("curve", "beside", "steps", "ITC %", "ITM %", "MLM %", "last ITC", "ITM", "MLM")
    return markdown(head, rows)


if __name__ == "__main__":
    sys.exit(main())
