"""Loss curves of our step and the plain one: equal where they should be, and the measure sees where they are not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks import loss_curves
from benchmarks.curve import Curve, our_curve, plain_curve, recipe
from benchmarks.gpu import Outcome, Part
from benchmarks.loss_curves import NARROW, NO_DROPOUT, curve_groups, differences, windows
from tests.support.ranks import run_ranks

STEPS = 4
NEGATIVES = {"--save-negatives", "--negatives"}
SMALL = [
    *("--model.image_size=32", "--model.vision_width=32", "--model.vision_depth=1", "--model.vision_heads=2"),
    *("--model.text_width=32", "--model.text_depth=1", "--model.fusion_depth=1", "--model.text_heads=2"),
    *("--model.text_ffn_width=64", "--model.embed_dim=16", "--objective.queue_size=16", "--schedule.warmup_steps=0"),
    *("--schedule.alpha_ramp_epochs=0", *NO_DROPOUT),
]


def curves_of_a_rank(_rank: int, _world_size: int) -> dict[str, Curve]:
    """Ours, the plain one, and one with another alpha, with the negatives of ours."""
    run = recipe(SMALL, steps=STEPS, batch=6)
    os.environ["DS_ACCELERATOR"] = "cpu"
    ours, negatives = our_curve(run)
    wrong = recipe([*SMALL, "--objective.alpha=0.6"], steps=STEPS, batch=6)
    plain, wrong_alpha = (plain_curve(each, negatives=negatives) for each in (run, wrong))
    return {"ours": ours, "plain": plain, "wrong alpha": wrong_alpha}


def test_the_measure_sees_a_wrong_alpha() -> None:
    """Four real steps on the demo's pictures. Equal arithmetic stays within fp32's rounding, 1e-5; with alpha 0.6
    instead of 0.4 both distilled losses leave it, ITC by more than 1%, MLM (its teacher knows nothing yet) by less."""
    [curves] = run_ranks(curves_of_a_rank, 1, process_group=False)
    assert all(len(losses) == STEPS for curve in curves.values() for losses in curve.values())
    equal = differences(curves["ours"], curves["plain"])
    assert max(equal.values()) < 1e-5, equal
    wrong = differences(curves["wrong alpha"], curves["plain"])
    assert wrong["itc"] > 1e-2 and wrong["mlm"] > 1e-4, wrong


def test_windows_and_differences_by_hand() -> None:
    """41 steps are two windows of 20; a shorter curve is compared over its own steps."""
    assert windows([1.0] * 20 + [3.0] * 20 + [99.0]) == [1.0, 3.0] and windows([1.0, 2.0]) == [1.5]
    reference = {"itc": [1.0] * 20 + [2.0] * 20}
    assert differences({"itc": [1.0] * 20 + [2.5] * 20}, reference) == {"itc": 0.25}
    assert differences({"itc": [1.1, 1.3]}, reference)["itc"] == pytest.approx(0.2)


def row(name: str, batch: int = 32, **losses: float) -> dict[str, Any]:
    """Of a file of results: a curve of 20 equal steps."""
    curve = {loss: [value] * 20 for loss, value in ({"itc": 2.0, "itm": 1.0, "mlm": 4.0} | losses).items()}
    return {"part": name, "figures": {"batch": batch, "text_width": 192, "curve": curve}}


def test_the_table_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A curve with dropout stands beside the plain one with dropout, kernels on beside kernels off; one that failed has
    no row."""
    curves = [row("plain-fp32"), row("plain-dropout"), row("ours-dropout", mlm=4.1)]
    curves += [row("ours-torch", 8), row("ours-triton", 8, itc=1.9), {"part": "ours-bf16", "figures": None}]
    file = tmp_path / "curves.json"
    file.write_text(json.dumps({"curves": curves}))
    assert loss_curves.main(["--show", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| ours-dropout | plain-dropout | 20 | 32 | 192 | 0.000 | 0.000 | 2.500 | 2.000 | 1.000 | 4.100 |",
        "| ours-triton | ours-torch | 20 | 8 | 192 | 5.000 | 0.000 | 0.000 | 1.900 | 1.000 | 4.000 |",
    ]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_group_takes_the_negatives_of_its_first(device: str, tmp_path: Path) -> None:
    """So a near tie that one side draws otherwise is no difference of the curves. The kernels that are on differ from
    those that are off by the recipe's key alone; a GPU takes all steps of the whole model."""
    learned, kernels = curve_groups(device, steps=200, batch=32, folder=tmp_path)
    for first, *others in (learned, kernels):
        file = first.words[list(first.words).index("--save-negatives") + 1]
        assert all(part.words[list(part.words).index("--negatives") + 1] == file for part in others)
    off, on = kernels
    assert set(on.words) ^ set(off.words) == {"--model.kernels=torch", "--model.kernels=triton"} | NEGATIVES
    assert (on.environment == {"TRITON_INTERPRET": "1"}) == (device == "cpu")
    if device == "cuda":
        assert {"200", "32"} < set(on.words) and not set(NARROW) & set(on.words)


def test_some_curves_run_again_into_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the curve that draws their negatives, at their own commit; the file's other curves stay as they are."""

    def run(part: Part, _logs: Path, _limit_s: float) -> Outcome:
        return Outcome(part=part.name, figures=row(part.name)["figures"] | {"commit": "new"})

    monkeypatch.setattr(loss_curves, "run_part", run)
    monkeypatch.setattr(loss_curves, "LOGS", tmp_path)
    file = tmp_path / "curves.json"
    kept = row("plain-fp32") | {"commit": "old"}
    file.write_text(json.dumps({"curves": [kept, row("ours-bf16", itc=9.0) | {"commit": "old"}]}))
    assert loss_curves.main(["--only", "ours-triton,ours-bf16", "--into", str(file)]) == 0
    curves = json.loads(file.read_text())["curves"]
    assert [(one["part"], one["commit"]) for one in curves] == [
        *(("ours-fp32", "new"), ("ours-bf16", "new"), ("plain-fp32", "old"), ("ours-torch", "new")),
        ("ours-triton", "new"),
    ]
    assert curves[1]["figures"]["curve"]["itc"] == [2.0] * 20 and curves[2] == kept
