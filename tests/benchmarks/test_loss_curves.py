"""Loss curves of our step and the plain one: equal where they should be, and the measure sees where they are not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import loss_curves
from benchmarks.curve import Curve, our_curve, plain_curve, recipe
from benchmarks.loss_curves import NO_DROPOUT, curve_parts, differences, windows
from tests.support.ranks import run_ranks

STEPS = 4
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


def test_the_table_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A curve with dropout stands beside the plain one with dropout; one that failed has no row."""
    curve = {"itc": [2.0] * 20, "itm": [1.0] * 20, "mlm": [4.0] * 20}
    curves = [
        {"part": "plain-fp32", "figures": {"curve": curve}},
        {"part": "plain-dropout", "figures": {"curve": curve}},
        {"part": "ours-dropout", "figures": {"curve": curve | {"mlm": [4.1] * 20}}},
        {"part": "ours-bf16", "figures": None},
    ]
    file = tmp_path / "curves.json"
    file.write_text(json.dumps({"curves": curves}))
    assert loss_curves.main(["--show", str(file)]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows == ["| ours-dropout | plain-dropout | 20 | 0.000 | 0.000 | 2.500 | 2.000 | 1.000 | 4.100 |"]


def test_all_curves_but_the_first_take_its_negatives(tmp_path: Path) -> None:
    """So a near tie that one side draws otherwise is no difference of the curves."""
    first, *others = curve_parts("cpu", steps=2, batch=2, folder=tmp_path)
    file = str(tmp_path / "negatives.pt")
    assert first.words[list(first.words).index("--save-negatives") + 1] == file
    assert all(part.words[list(part.words).index("--negatives") + 1] == file for part in others)
