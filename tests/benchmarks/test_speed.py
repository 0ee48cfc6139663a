"""`benchmarks.speed`: its commands are ones that `pipeline` takes, and its tables show what they measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import speed
from pipeline import cli

STEP = {
    "what": "step",
    "samples_per_s": 0.31,
    "cpu_s": 8.2,
    "peak_memory_gib": 6.1,
    "mfu_pct": 21.5,
    "kernel_ops_per_step": 2_345,
    "host_waits_per_step": 4,
    "parts_ms": {"forward": 3_000.0, "backward": 5_000.0},
    "parts_cpu_s": {"forward": 2.0, "backward": 6.0},
    "operations": {"forward": 900, "backward": 1_445},
}
BASELINE = {
    "ratio_to_baseline": 2.1,
    "ratio_to_baseline_spread": [1.9, 2.4],
    "memory_ratio_to_baseline": 0.97,
    "baseline": {"cpu_s": 17.2},
}
FIGURES: dict[str, dict[str, Any]] = {
    "step-bf16": STEP | BASELINE,
    "step-8-lanes": STEP,
    "memory": {
        "what": "memory",
        "measured_bytes": {"weights": 2**29, "process": 2**30},
        "estimated_bytes": {"weights": 2**29},
    },
    "kernels": {
        "what": "kernels",
        "kernels": [
            {
                "kernel": "itc",
                "sizes": {"batch": 4},
                "implementations": {
                    "plain": {"forward_ms": [1, 2, 3], "forward_backward_ms": [4, 5, 6], "forward_backward_mib": 7.5}
                },
            }
        ],
    },
    "environment": {"device": "no table"},
}


def test_tables_show_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of all steps, one for the parts of each, memory, kernels; a part that failed has none."""
    parts = [{"part": name, "figures": figures} for name, figures in FIGURES.items()]
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"parts": [*parts, {"part": "step-fp32", "figures": None}]}))
    assert speed.main(["--show", str(file)]) == 0
    blocks = capsys.readouterr().out.strip().split("\n\n")
    assert len(blocks) == 5
    assert blocks[0].splitlines()[2:] == [
        "| step-bf16 | 2.1 | 1.9-2.4 | 8.2 | 17.2 | 0.97 | 6.1 | 0.31 | 21.5 | 2,345 | 4 |",
        "| step-8-lanes | - | - | 8.2 | - | - | 6.1 | 0.31 | 21.5 | 2,345 | 4 |",
    ]
    assert "| backward | 5000.0 | 6.0 | 75 | 1445 |" in blocks[1]
    assert blocks[3].splitlines()[2:] == [
        "| weights | 0.50 | 0.50 |",
        "| process | 1.00 | 0.00 |",
        "| sum | 1.50 | 0.50 |",
    ]
    assert "| itc | batch 4 | plain | 2 | 5 | 7.5 |" in blocks[4]


def test_its_commands_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    """Up to the number of steps, which is read last; `bench memory` takes as many as it needs."""
    for part in speed.cpu_parts("albef_14m", 4):
        words = list(part.words)
        assert cli.main([*words[words.index("pipeline") + 1 :], "--steps", "0"]) == 2
        assert "--steps 0 measures nothing" in capsys.readouterr().err


def test_an_unknown_part_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything runs."""
    with pytest.raises(SystemExit):
        speed.main(["--only", "stepp"])
    assert "--only stepp: the parts are step-bf16" in capsys.readouterr().err
