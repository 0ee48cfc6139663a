"""`pipeline ablate` around its commands: which run, once, what a failure or a stop leaves, and the table."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml

from albef.config import ObjectiveConfig
from base.errors import UserError
from pipeline import cli
from pipeline.ablation.plan import PLANS, load_plan
from pipeline.ablation.rows import ROWS, SWITCHES
from pipeline.ablation.runs import MAY_CHANGE
from pipeline.config.flags import RecipeParser
from pipeline.config.resolve import recipe_keys
from pipeline.tasks import evaluate
from pipeline.tasks.pretraining import export

STAND_IN = Path(__file__).with_name("stand_in.py")


class Tried:
    """An ablation of six rows and two seeds, of retrieval and VQA, whose commands are stood in for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.plan: dict[str, Any] = {
            "seeds": [0, 1],
            "from_pretraining": ["model"],
            "pretraining": {"recipe": "demo"},
            "zero_shot": {"annotations": "test.json", "images": "test.zip", "k_test": 4},
            "vqa": {"recipe": "vqa", "annotations": "vqa.json", "images": "test.zip", "answers": "answers.json"},
        }

    def run(self, *flags: str) -> int:
        """The exit code."""
        (self.folder / "plan.yaml").write_text(yaml.safe_dump(self.plan))
        launch = shlex.join([sys.executable, "-S", str(STAND_IN), str(self.folder)])
        return cli.main(
            ["ablate", str(self.folder / "plan.yaml"), "--run-dir", str(self.out), "--launch", launch, *flags]
        )

    def write(self, file: str, text: str) -> None:
        (self.folder / file).write_text(text)

    def started(self) -> list[str]:
        """The commands since the last call: `pretrain itc/0`, ..."""
        log = self.folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        place = re.compile(r"(?:--run-dir=|--out )\S*/out/([a-z_]+/[0-9]+)/")
        return [f"{line.split()[0]} {found[1]}" for line in lines if (found := place.search(line))]

    @property
    def table(self) -> Any:
        return json.loads((self.out / "table.json").read_text())


@pytest.fixture
def tried(tmp_path: Path) -> Tried:
    return Tried(tmp_path)


def test_each_row_adds_one_thing_to_the_one_above() -> None:
    """Table 1 of the paper: ITC, hard negatives, distillation of ITC, of MLM, and downstream."""
    rows = list(ROWS.values())
    added = [set(row.on) - set(above.on) for above, row in zip(rows, rows[1:], strict=False)]
    assert added == [{"itc"}, {"hard_negatives"}, {"distill_itc"}, {"distill_mlm"}, set()]
    assert rows[0].on == () and [row.distills_downstream for row in rows] == [False] * 5 + [True]
    full = ObjectiveConfig()
    assert all(getattr(full, name) is True for name in (*SWITCHES, "itm", "mlm"))
    assert [row.name for row in rows if row.pretraining != row.name] == ["distill_downstream"]


def test_every_command_runs_once_with_the_switches_of_its_row(tried: Tried) -> None:
    """Five pretrainings a seed for six rows; the same command again starts nothing and writes the same table."""
    assert tried.run() == 0
    log = (tried.folder / "log").read_text().splitlines()
    for row, switches in {
        "mlm_itm": "itc=false hard_negatives=false distill_itc=false distill_mlm=false",
        "itc": "itc=true hard_negatives=false distill_itc=false distill_mlm=false",
        "hard_negatives": "itc=true hard_negatives=true distill_itc=false distill_mlm=false",
        "distill_itc": "itc=true hard_negatives=true distill_itc=true distill_mlm=false",
        "distill_mlm": "itc=true hard_negatives=true distill_itc=true distill_mlm=true",
    }.items():
        flags = " ".join(f"--objective.{switch}" for switch in switches.split())
        own = [line for line in log if line.startswith("pretrain") and f"/{row}/" in line]
        assert [line.split("--seed=")[1] for line in own] == [f"{seed} {flags}" for seed in (0, 1)]
    tuned = [line for line in log if line.startswith("finetune vqa") and "/1/" in line]
    ends = [re.sub(r".*/out/(.*)", r"\1", line) for line in tuned]
    assert ends == [
        *(f"{row}/1/model --objective.distill=false" for row in list(ROWS)[:5]),
        "distill_mlm/1/model --objective.distill=true",
    ]
    assert len(log) == len(set(log)) == 2 * (5 * 2 + 6 * 2)
    before = (tried.out / "table.json").read_bytes(), (tried.out / "table.md").read_bytes()
    tried.started()
    assert tried.run() == 0 and tried.started() == []
    assert ((tried.out / "table.json").read_bytes(), (tried.out / "table.md").read_bytes()) == before


def test_the_table_has_mean_lowest_and_highest(tried: Tried, capsys: pytest.CaptureFixture[str]) -> None:
    """The stand-in scores 10 x row + seed, and adds k / 10 to recall at k; the last row keeps the zero-shot of its
    model."""
    assert tried.run("--seeds", "1") == 0
    assert tried.table["rows"][2]["scores"]["VQA"] == {"mean": 21, "min": 21, "max": 21, "n": 1, "by_seed": {"1": 21}}
    assert "| + hard negatives | 21.53, n = 1 |" in capsys.readouterr().out
    assert tried.run() == 0
    for number, row in enumerate(tried.table["rows"]):
        assert row["scores"]["VQA"]["mean"] == 10 * number + 0.5
        of_model = 10 * min(number, 4)
        recall = row["scores"]["zero-shot TR"]
        assert recall["mean"] == pytest.approx(of_model + 0.5 + fmean([0.1, 0.5, 1.0]))
        assert (recall["min"], recall["max"], recall["n"]) == pytest.approx((of_model + 1.6 / 3, of_model + 4.6 / 3, 2))
    shown = capsys.readouterr().out
    assert "| + MoD downstream | 41.03 (40.53 to 41.53) | 40.60 (40.10 to 41.10) |" in shown
    assert "pretraining: 5 steps on 40 samples in every row" in shown
    assert "sorts 4 candidates of each query" in shown and "untrained projections" in shown
    assert tried.table["unequal_budgets"] == tried.table["failed"] == []


def test_nlvr2_starts_from_text_assignment(tried: Tried) -> None:
    """Which starts from pretraining, has no teacher, and no column; without it NLVR2 starts from pretraining."""
    tried.plan |= {"rows": ["distill_downstream"], "seeds": [3]}
    for name, recipe in {"nlvr2": "nlvr2", "grounding": "refcoco_plus", "text_assignment": "nlvr2_pretrain"}.items():
        tried.plan[name] = {"recipe": recipe}
        if name != "text_assignment":
            tried.plan[name] |= {"annotations": "test.json", "images": "test.zip"}
    tried.plan["grounding"] |= {"dets": "dets.json", "block": 0}
    assert tried.run() == 0
    log = [line.replace(str(tried.out), "") for line in (tried.folder / "log").read_text().splitlines()]
    starts = {line.split()[1]: line.partition("--init.model=")[2] for line in log if line.startswith("finetune")}
    assert starts == {
        "vqa": "/distill_mlm/3/model --objective.distill=true",
        "nlvr2-pretrain": "/distill_mlm/3/model",
        "nlvr2": "/distill_downstream/3/text_assignment_model --objective.distill=true",
        "grounding": "/distill_mlm/3/model --objective.distill=true",
    }
    order = [line.split()[1] for line in log if line.startswith("finetune")]
    assert order.index("nlvr2-pretrain") < order.index("nlvr2")
    (asked,) = [line for line in log if line.startswith("evaluate grounding")]
    assert "--dets=dets.json --by=itm --block=0" in asked
    scores = tried.table["rows"][0]["scores"]
    assert {name: scores[name]["mean"] for name in ("VQA", "NLVR2", "grounding", "pointing")} == {
        "VQA": 53,
        "NLVR2": 53,
        "grounding": 53,
        "pointing": 53.5,
    }
    del tried.plan["nlvr2"]
    assert tried.run() == 2


def test_a_failing_row_costs_no_other(tried: Tried, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and its name; what needs the same model fails without a second try; fixed, only that is run."""
    tried.plan["rows"] = ["itc", "distill_mlm", "distill_downstream"]
    tried.write("fails", "distill_mlm 0 pretrain\n")
    assert tried.run() == 2
    assert "error: 2 runs failed: distill_mlm with seed 0, distill_downstream with seed 0" in capsys.readouterr().err
    started = tried.started()
    assert len(started) == 2 * (2 * 2 + 3 * 2) - 1 - 4 and started.count("pretrain distill_mlm/0") == 1
    assert [row["scores"]["VQA"]["n"] for row in tried.table["rows"]] == [2, 1, 1]
    assert tried.table["failed"] == [
        {"row": row, "seed": 0, "command": "pretrain", "exit_code": 2} for row in ("distill_mlm", "distill_downstream")
    ]
    assert "failed: distill_mlm, seed 0: pretrain, exit code 2" in (tried.out / "table.md").read_text()
    (tried.folder / "fails").unlink()
    assert tried.run() == 0
    assert tried.started() == [
        *(f"{word} distill_mlm/0" for word in ("pretrain", "evaluate", "finetune", "evaluate")),
        *(f"{word} distill_downstream/0" for word in ("finetune", "evaluate")),
    ]
    assert tried.table["failed"] == []


def test_a_stopped_run_stops_the_ablation(tried: Tried) -> None:
    """Exit code 75 as the trainer's, nothing after it is started, and the same command resumes there."""
    tried.write("stops", "itc 0 finetune\n")
    assert tried.run() == 75
    assert tried.started()[-1] == "finetune itc/0"
    (tried.folder / "stops").unlink()
    assert tried.run("--rows", "itc", "--seeds", "0") == 0
    assert tried.started() == ["finetune itc/0", "evaluate itc/0"]


def test_unequal_budgets_are_an_error(tried: Tried, capsys: pytest.CaptureFixture[str]) -> None:
    """One row that saw other samples: the table states it, and the exit code is 2."""
    tried.plan["rows"] = ["mlm_itm", "itc"]
    tried.write("samples", "itc 1 pretrain:39\n")
    assert tried.run() == 2
    assert "error: the budgets of the rows differ: pretraining: 5 steps, 40 samples" in capsys.readouterr().err
    assert "39 samples, data ffffffffffffffff in itc seed 1" in tried.table["unequal_budgets"][0]
    assert "**The budgets differ, so the rows cannot be compared:**" in (tried.out / "table.md").read_text()


def test_a_dry_run_prints_what_is_left(tried: Tried, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command once, each with flags that the command has; nothing is made."""
    assert tried.run("--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(set(lines)) == 2 * (5 * 3 + 6 * 3) and not tried.out.exists()
    for line in lines:
        words = shlex.split(line)
        command, *rest = words[words.index("pipeline") + 1 :]
        parser = RecipeParser(prog=command)
        if command in ("evaluate", "export"):
            (evaluate if command == "evaluate" else export).add_arguments(parser)
            parser.parse_args(rest)
        else:
            keys = {key.name for key in recipe_keys("pretraining" if command == "pretrain" else "vqa")}
            given = {word[2:].partition("=")[0] for word in rest if word.startswith("--")}
            assert given - keys == {"run-dir"}
    tried.run("--rows", "mlm_itm")
    capsys.readouterr()
    assert tried.run("--dry-run", "--seeds", "1") == 0
    assert len(capsys.readouterr().out.splitlines()) == 4 * 3 + 5 * 3


def test_runs_of_one_table_have_one_plan(tried: Tried, capsys: pytest.CaptureFixture[str]) -> None:
    """Other hyperparameters or another test file are refused; more seeds, and what changes no result, are not."""
    tried.plan["seeds"] = [0]
    assert tried.run("--rows", "mlm_itm") == 0
    tried.plan["vqa"]["overrides"] = {"optim": {"lr": 0.5}}
    tried.plan["zero_shot"]["k_test"] = 5
    assert tried.run() == 2
    message = capsys.readouterr().err
    assert "optim.lr of vqa was 2e-05, is 0.5" in message and "zero_shot was evaluated with" in message
    del tried.plan["vqa"]["overrides"]
    tried.plan["zero_shot"]["k_test"] = 4
    tried.plan["pretraining"]["overrides"] = {"logging.log_every": 7, "data": {"num_workers": 0}}
    tried.plan["seeds"] = [0, 5]
    tried.started()
    assert tried.run("--rows", "mlm_itm") == 0
    assert "pretrain mlm_itm/5" in tried.started()
    keys = {key.name for task in ("pretraining", "vqa") for key in recipe_keys(task)}
    assert all(any(key.startswith(name) for key in keys) for name in MAY_CHANGE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zero_shto": {"k_test": 1}}, "zero_shto.*is not a key"),
        ({"seeds": [0, 0]}, r"seeds is \[0, 0\]"),
        ({"rows": ["mlm_itm", "distil_itc"]}, "rows should be"),
        ({"pretraining": {"recipe": None}}, "pretraining.recipe is missing"),
        ({"pretraining": {"recipe": "vqa"}}, "recipe vqa of pretraining is of the task vqa"),
        ({"vqa": {"recipe": "vqa", "annotations": "a", "images": "b"}}, "vqa.answers is missing"),
        ({"vqa": {"recipe": "vqa", "overrides": {"optim": {"lrr": 1}}}}, "vqa.annotations is missing"),
        ({"from_pretraining": ["modle"]}, "from_pretraining: modle is no section or key"),
        ({"zero_shot": None, "vqa": None}, "no task is planned"),
    ],
)
def test_a_plan_s_mistakes_are_named(
    tried: Tried, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, before anything is made."""
    tried.plan |= changes
    assert tried.run() == 2
    assert re.search(message, capsys.readouterr().err)
    assert not tried.out.exists()


def test_rows_and_seeds_are_of_the_plan(tried: Tried, capsys: pytest.CaptureFixture[str]) -> None:
    """A flag narrows a plan and never widens it."""
    assert tried.run("--seeds", "0,7") == 2
    assert "--seeds: 7 is not in the plan" in capsys.readouterr().err


def test_overrides_come_after_the_recipe_of_pretraining_and_the_task_s_own(tried: Tried) -> None:
    """`from_pretraining: [model]` gives VQA the demo's shape; an override changes one width of it; validation files
    of a recipe are left out."""
    tried.plan["vqa"] |= {"overrides": {"model": {"fusion_depth": 3}, "max_steps": 9}}
    tried.plan["snli_ve"] = {"recipe": "snli_ve", "annotations": "ve.json", "images": "test.zip"}
    tried.write("plan.yaml", yaml.safe_dump(tried.plan))
    recipes: dict[str, Any] = {**load_plan(str(tried.folder / "plan.yaml")).recipes}
    demo, vqa = recipes["pretraining"], recipes["vqa"]
    assert (vqa.model.vision_width, vqa.model.patch_size, vqa.model.fusion_depth) == (192, 16, 3)
    assert (vqa.max_steps, vqa.batch.global_batch_size, vqa.optim.lr) == (9, 256, 2e-5)
    assert demo.validation.manifest is None and recipes["snli_ve"].validation.annotations == ()


def test_the_shipped_plans_are_whole() -> None:
    """Six rows of three tasks, or one row of every task; three seeds, and one shape for all."""
    assert sorted(path.stem for path in PLANS.glob("*.yaml")) == ["world", "world_tasks"]
    planned = load_plan("world")
    assert planned.plan.rows == tuple(ROWS) and planned.plan.seeds == (0, 1, 2)
    assert planned.plan.evaluated == ("zero_shot", "vqa", "nlvr2", "snli_ve")
    every = load_plan("world_tasks")
    assert every.plan.rows == ("distill_downstream",) and every.plan.seeds == (0, 1, 2)
    assert every.plan.trained == ("text_assignment", "vqa", "nlvr2", "snli_ve", "grounding")
    for recipes in (planned.recipes, every.recipes):
        assert len({run.model for run in recipes.values()}) == 1


def test_an_unknown_plan_is_named_with_the_ones_there_are() -> None:
    with pytest.raises(UserError, match="there is no plan wrold") as refusal:
        load_plan("wrold")
    assert "world" in refusal.value.hint
