"""The table: what each row scored over its seeds, and whether all rows had the same budget. From files alone."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from base import atomic_file
from pipeline.ablation.plan import AblationPlan
from pipeline.ablation.rows import ROWS, Row
from pipeline.ablation.runs import Ablation
from pipeline.run.markdown import as_text
from pipeline.run.metrics_file import newest_first
from pipeline.run.retrying_file import unwritable
from samples.json_text import parse_json
from samples.plain_file import read_plain

MAX_BYTES = 64 << 20
DATA_RECORD = "data.json"
"""In a run folder: `pipeline.run.data_fingerprint` writes it, and imports torch, which nothing here needs."""
TITLES = {
    "zero_shot": "zero-shot",
    "retrieval": "tuned",
    "vqa": "VQA",
    "nlvr2": "NLVR2",
    "snli_ve": "SNLI-VE",
    "grounding": "grounding",
}
WAYS = {"TR": "i2t", "IR": "t2i"}
"""The paper's names: text retrieval finds texts for images, image retrieval images for texts."""
RECALL_AT = (1, 5, 10)

Table = dict[str, Any]


def scores(name: str, result: Mapping[str, Any]) -> dict[str, float]:
    """The columns of a task, in percent: of retrieval the mean of R@1, R@5 and R@10, as in the paper, and R@1; of
    grounding the accuracy of boxes, and of the pointing game."""
    if name == "grounding":
        return {"grounding": result["accuracy"], "pointing": result["pointing"]}
    if name not in ("zero_shot", "retrieval"):
        return {TITLES[name]: result["accuracy"]}
    found = {}
    for column, way in WAYS.items():
        found[f"{TITLES[name]} {column}"] = fmean(result[f"{way}_recall_at_{at}"] for at in RECALL_AT)
        found[f"{TITLES[name]} {column}@1"] = result[f"{way}_recall_at_1"]
    return found


def collect(ablation: Ablation) -> Table:
    """All that is done so far, in the order of the plan: equal files give an equal table."""
    plan = ablation.planned.plan
    runs = [_run(ablation, ROWS[row], seed) for row in plan.rows for seed in plan.seeds]
    rows = []
    for name in plan.rows:
        values: dict[str, dict[str, float]] = {}
        for run in (run for run in runs if run["row"] == name):
            for column, value in run["scores"].items():
                values.setdefault(column, {})[str(run["seed"])] = value
        spread = {column: summary(of_seeds.values()) | {"by_seed": of_seeds} for column, of_seeds in values.items()}
        rows.append({"row": name, "title": ROWS[name].title, "scores": spread})
    return {
        "name": plan.name,
        "seeds": list(plan.seeds),
        "rows": rows,
        "runs": runs,
        "unequal_budgets": unequal(runs),
        "failed": [
            {"row": row, "seed": seed} | _read(ablation.failure(row, seed))
            for row in plan.rows
            for seed in plan.seeds
            if ablation.failure(row, seed).exists()
        ],
    }


def summary(values: Iterable[float]) -> dict[str, float]:
    """Mean, lowest, highest and number of values."""
    found = list(values)
    return {"mean": fmean(found), "min": min(found), "max": max(found), "n": len(found)}


def unequal(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each training whose steps, samples or data differ between runs that have finished it."""
    seen: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for name, budget in run["budgets"].items():
            facts = f"{budget['steps']} steps, {budget['samples']} samples, data {budget['data']}"
            seen.setdefault(name, {}).setdefault(facts, []).append(f"{run['row']} seed {run['seed']}")
    return [
        f"{name}: " + "; ".join(f"{facts} in {', '.join(of)}" for facts, of in by_facts.items())
        for name, by_facts in seen.items()
        if len(by_facts) > 1
    ]


def _run(ablation: Ablation, row: Row, seed: int) -> Table:
    """Scores and budgets of a row and a seed, of what is done."""
    plan = ablation.planned.plan
    found: dict[str, float] = {}
    budgets, candidates = {}, {}
    for name in plan.evaluated:
        result = ablation.result(row, seed, name)
        if result.exists():
            values = _read(result)
            found |= scores(name, values)
            if "k_test" in values and "num_texts" in values:
                candidates[name] = {key: values[key] for key in ("k_test", "num_images", "num_texts")}
    for name in ("pretraining", *plan.trained):
        budget = _budget(ablation.run_folder(row, seed, name))
        if budget is not None and (ablation.model(row, seed, name) / "config.json").exists():
            budgets[name] = budget
    return {"row": row.name, "seed": seed, "scores": found, "budgets": budgets, "candidates": candidates}


def _budget(run_folder: Path) -> Table | None:
    """Steps, samples and data of a run, from its own record; None if it has logged nothing."""
    last = next((line for line in newest_first(run_folder / "metrics.jsonl") if "data/samples_seen" in line), None)
    if last is None:
        return None
    return {
        "steps": last["step"],
        "samples": int(last["data/samples_seen"] or 0),
        "skipped_steps": int(last.get("optim/skipped_steps") or 0),
        "data": _read(run_folder / DATA_RECORD)["fingerprint"],
    }


def _read(path: Path) -> Table:
    values: Table = parse_json(read_plain(path, MAX_BYTES))
    return values


def write(ablation: Ablation) -> Table:
    """Write `table.json` and `table.md` of what is done so far; returns the table.

    Raises: ConfigError when they cannot be written.
    """
    try:
        ablation.folder.mkdir(parents=True, exist_ok=True)
        with _alone(ablation.folder):
            table = collect(ablation)
            atomic_file.write_json(ablation.folder / "table.json", table)
            atomic_file.write_text(ablation.folder / "table.md", markdown(table, ablation.planned.plan))
    except OSError as error:
        raise unwritable(ablation.folder, error) from error
    return table


@contextmanager
def _alone(folder: Path) -> Any:
    """Other processes, with other rows of the same folder, wait: the last to write has read the results of all."""
    with (folder / ".table.lock").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def markdown(table: Table, plan: AblationPlan) -> str:
    """The table as a page."""
    columns = list(dict.fromkeys(column for row in table["rows"] for column in row["scores"]))
    lines = [
        f"# Ablation: {as_text(table['name'])}",
        "",
        f"Percent; the mean of {len(table['seeds'])} seeds, and the lowest and highest of them. "
        "TR and IR are the means of R@1, R@5 and R@10.",
        "",
        "| " + " | ".join(["row", *columns]) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    for row in table["rows"]:
        cells = [_cell(row["scores"].get(column), len(table["seeds"])) for column in columns]
        lines.append("| " + " | ".join([row["title"], *cells]) + " |")
    lines += ["", *_notes(table, plan)]
    return "\n".join(lines) + "\n"


def _cell(score: Mapping[str, Any] | None, num_seeds: int) -> str:
    if score is None:
        return ""
    text = f"{score['mean']:.2f}"
    if score["n"] > 1:
        text += f" ({score['min']:.2f} to {score['max']:.2f})"
    return text if score["n"] == num_seeds else f"{text}, n = {score['n']}"


def _notes(table: Table, plan: AblationPlan) -> list[str]:
    """What a reader must know beside the figures."""
    lines = []
    budgets = {name: budget for run in table["runs"] for name, budget in run["budgets"].items()}
    if table["unequal_budgets"]:
        lines += ["**The budgets differ, so the rows cannot be compared:**", ""]
        lines += [f"- {as_text(line, 1_000)}" for line in table["unequal_budgets"]] + [""]
    else:
        for name, budget in budgets.items():
            lines.append(f"- {name}: {budget['steps']:,} steps on {budget['samples']:,} samples in every row")
    skipped = sum(budget["skipped_steps"] for run in table["runs"] for budget in run["budgets"].values())
    if skipped:
        lines.append(f"- {skipped} steps were skipped in all, because a loss or the gradient was not finite")
    if "zero_shot" in plan.evaluated and "mlm_itm" in plan.rows:
        lines.append(_of_candidates(table))
    for one in table["failed"]:
        lines.append(f"- failed: {one['row']}, seed {one['seed']}: {one['command']}, exit code {one['exit_code']}")
    return lines


def _of_candidates(table: Table) -> str:
    """Which candidates the first row sorts, which has no trained similarity to choose them by."""
    found = [run["candidates"]["zero_shot"] for run in table["runs"] if "zero_shot" in run["candidates"]]
    if found and found[0]["k_test"] < max(found[0]["num_images"], found[0]["num_texts"]):
        return (
            f"- zero-shot retrieval sorts {found[0]['k_test']} candidates of each query by matching. MLM + ITM trains "
            "no similarity: its candidates are those that untrained projections rank first"
        )
    return "- zero-shot retrieval sorts all candidates of each query by matching, in every row"
