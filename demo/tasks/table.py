"""The table of what was learned: mean, lowest and highest over seeds, beside what guessing scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

Result = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """One figure of one result file."""

    title: str
    file: str
    """In a seed's folders; SEED stands for the seed."""
    key: str
    guess: Callable[[Result], float]
    """What guessing scores, from the same file."""


def _recall(result: Result) -> float:
    return 100 / float(result["num_images"])


LINES = (
    Line(
        "retrieval, text to image, by similarity, R@1",
        "distill_mlm/SEED/zero_shot.json",
        "itc_t2i_recall_at_1",
        _recall,
    ),
    Line("the same, re-ranked by matching", "distill_mlm/SEED/zero_shot.json", "t2i_recall_at_1", _recall),
    Line(
        "retrieval, image to text, by similarity, R@1",
        "distill_mlm/SEED/zero_shot.json",
        "itc_i2t_recall_at_1",
        _recall,
    ),
    Line("the same, re-ranked by matching", "distill_mlm/SEED/zero_shot.json", "i2t_recall_at_1", _recall),
    Line("matching, balanced pairs", "distill_mlm/SEED/matching.json", "accuracy", lambda _: 50.0),
    Line("VQA", "distill_downstream/SEED/vqa.json", "accuracy", lambda result: result["majority"]),
    Line("NLVR2", "distill_downstream/SEED/nlvr2.json", "accuracy", lambda result: result["majority"]),
    Line("SNLI-VE", "distill_downstream/SEED/snli_ve.json", "accuracy", lambda result: result["majority"]),
    Line(
        "pointing game", "distill_downstream/SEED/grounding.json", "pointing", lambda result: result["chance_pointing"]
    ),
)


def as_table(runs: Path, seeds: Sequence[int]) -> str:
    """A Markdown table, in percent, of the seeds' results below `runs`."""
    rows = [
        f"Percent on `test`; the mean of seeds {', '.join(map(str, seeds))}, and the lowest and highest of them.",
        "",
        "| | learned | guessing |",
        "| --- | --- | --- |",
    ]
    for line in LINES:
        results = [json.loads((runs / line.file.replace("SEED", str(seed))).read_text()) for seed in seeds]
        values = [float(result[line.key]) for result in results]
        spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
        rows.append(f"| {line.title} | {fmean(values):.1f}{spread} | {line.guess(results[0]):.1f} |")
    return "\n".join(rows) + "\n"
