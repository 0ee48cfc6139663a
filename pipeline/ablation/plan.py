"""A plan: what the rows of an ablation are pretrained, fine-tuned and evaluated on, in one YAML file."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import NonNegativeInt, PositiveInt

from albef.errors import ConfigError
from base.nearest import did_you_mean
from pipeline.config.recipe import (
    Problem,
    build,
    check_value,
    find_recipe,
    flatten,
    keys_of,
    read_recipe,
    refuse,
)
from pipeline.config.recipe_yaml import load_yaml, why_not_yaml
from pipeline.config.resolve import recipe_keys, resolve
from pipeline.config.run_config import DEFAULT_TASK, RunConfig, to_dict
from pipeline.config.text_file import read_text
from samples.quote import quote

PLANS = Path(__file__).resolve().parent / "plans"
RowName = Literal["mlm_itm", "itc", "hard_negatives", "distill_itc", "distill_mlm", "distill_downstream"]
SEE = "docs/ablation.md has every key of a plan"


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A recipe, and what differs from it."""

    recipe: str | None = None
    """Path of a recipe, or the name of one that ships with the project. null leaves the task out."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Keys that replace the recipe's, written as in a recipe."""


@dataclass(frozen=True, kw_only=True)
class ZeroShotPlan:
    """Retrieval with the pretrained model as it is; left out without annotations."""

    annotations: str | None = None
    """JSON list to evaluate on."""
    images: str | None = None
    """Folder or zip that the images' names start from."""
    k_test: PositiveInt = 128
    """Candidates per query, the most similar ones, that the matching head sorts. See docs/ablation.md for `mlm_itm`."""
    captions: Literal["all", "first"] = "all"
    """Every caption of an image, or its first."""


@dataclass(frozen=True, kw_only=True)
class TaskPlan(PlannedRun):
    """A task after pretraining: what it is trained by, and evaluated on."""

    annotations: str | None = None
    """JSON list to evaluate on."""
    images: str | None = None
    """Folder or zip that the images' names start from."""


@dataclass(frozen=True, kw_only=True)
class RetrievalPlan(TaskPlan):
    """Retrieval, fine-tuned."""

    k_test: PositiveInt = 128
    """Candidates per query, the most similar ones, that the matching head sorts."""
    captions: Literal["all", "first"] = "all"
    """Every caption of an image, or its first."""


@dataclass(frozen=True, kw_only=True)
class VqaPlan(TaskPlan):
    """VQA."""

    answers: str | None = None
    """JSON list of the candidate answers."""
    k_test: PositiveInt = 128
    """Candidates of a question that are read whole."""


@dataclass(frozen=True, kw_only=True)
class GroundingPlan(TaskPlan):
    """Grounding, fine-tuned; the columns are its accuracy and the pointing game."""

    dets: str | None = None
    """A detector's boxes (dets.json), of which one is chosen; null: the box is made of the map's cells."""
    by: Literal["itm", "itc"] = "itm"
    """Grad-CAM of matching in the multimodal encoder's cross-attention, or of similarity in the image encoder."""
    block: NonNegativeInt | None = None
    """The layer of the map, from 0; null takes the one that `evaluate grounding` takes."""


@dataclass(frozen=True, kw_only=True)
class AblationPlan:
    """Everything that decides an ablation."""

    name: str = "ablation"
    """Of the ablation, and of its folder under runs/. The default is the name of the plan's file."""
    seeds: tuple[NonNegativeInt, ...] = (0, 1, 2)
    """Each row is trained once with each, in pretraining and after it."""
    rows: tuple[RowName, ...] = typing.get_args(RowName)
    """Which rows, of those in docs/ablation.md."""
    from_pretraining: tuple[str, ...] = ()
    """Sections, or keys, that the tasks take from the pretraining recipe instead of their own, where they have them:
    `model` gives every task the shape of the pretrained model. A task's overrides come after."""
    pretraining: PlannedRun = field(default_factory=PlannedRun)
    zero_shot: ZeroShotPlan = field(default_factory=ZeroShotPlan)
    retrieval: RetrievalPlan = field(default_factory=RetrievalPlan)
    vqa: VqaPlan = field(default_factory=VqaPlan)
    text_assignment: PlannedRun = field(default_factory=PlannedRun)
    """What NLVR2 starts from, as in the paper (`finetune nlvr2-pretrain`); null: from the pretrained model."""
    nlvr2: TaskPlan = field(default_factory=TaskPlan)
    snli_ve: TaskPlan = field(default_factory=TaskPlan)
    grounding: GroundingPlan = field(default_factory=GroundingPlan)

    def mistakes(self) -> Iterator[Problem]:
        """What is missing, twice or cannot be."""
        if self.pretraining.recipe is None:
            yield Problem(what="pretraining.recipe is missing", hint="name the recipe to pretrain with")
        for key in ("seeds", "rows"):
            values = getattr(self, key)
            if not values or len(set(values)) < len(values):
                yield Problem(what=f"{key} is {quote(list(values))}", hint="give one or more, each once")
        if "/" in self.name or self.name in ("", ".", "..") or not self.name.isprintable():
            yield Problem(what=f"name '{quote(self.name)}' cannot name a folder", hint="use letters, digits, - and _")
        if not self.evaluated:
            yield Problem(
                what="no task is planned",
                hint=f"give zero_shot.annotations, or the recipe of one of {', '.join(SCORED)}",
            )
        if self.text_assignment.recipe is not None and self.nlvr2.recipe is None:
            yield Problem(
                what="text_assignment is planned without nlvr2", hint="give nlvr2.recipe, which starts from it"
            )
        for name in self.evaluated:
            section = getattr(self, name)
            needed = ("annotations", "images", *(["answers"] if name == "vqa" else []))
            for key in needed:
                if getattr(section, key) is None:
                    yield Problem(what=f"{name}.{key} is missing", hint="name what the model is evaluated on")

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the sections of tasks that are trained, each after what it starts from."""
        return tuple(name for name in TASKS if getattr(self, name).recipe is not None)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Names of the sections whose results are columns of the table."""
        scored = (name for name in self.trained if name in SCORED)
        return (*(["zero_shot"] if self.zero_shot.annotations is not None else []), *scored)


SCORED = {"retrieval": "retrieval", "vqa": "vqa", "nlvr2": "nlvr2", "snli_ve": "snli-ve", "grounding": "grounding"}
"""Section of a plan -> TASK of `finetune` and `evaluate`."""
TASKS = {"text_assignment": "nlvr2-pretrain"} | SCORED
"""Section of a plan -> TASK of `finetune`."""


VALIDATED = ("validation.annotations", "validation.manifest")
"""Keys of a recipe that count only as overrides: the table's scores come from `evaluate`, after training."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A plan and its recipes, resolved."""

    plan: AblationPlan
    recipes: dict[str, RunConfig]
    """`pretraining` and every trained task -> what all rows run with; a row adds its switches, seed and model."""


def load_plan(plan: str) -> Planned:
    """A plan by its path, or by the name of one that ships with the project.

    Raises: ConfigError that lists every mistake of the plan, or those of one of its recipes.
    """
    path = find_plan(plan)
    text = read_text(path, "a plan", "give the path of a YAML file")
    try:
        values = load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{quote(path)} is not valid YAML: {why_not_yaml(error)}", "fix that line") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{quote(path)} does not hold `key: value` lines", SEE)
    read = _read(values, path.stem)
    recipes = {"pretraining": _recipe(read.pretraining, DEFAULT_TASK, {}, "pretraining")}
    shared = _shared(read, recipes["pretraining"])
    for name in read.trained:
        recipes[name] = _recipe(getattr(read, name), TASKS[name], shared, name)
    return Planned(plan=read, recipes=recipes)


def find_plan(plan: str) -> Path:
    """The file of a plan given by path or name. Raises: ConfigError that lists the plans there are."""
    for path in (Path(plan), PLANS / f"{plan}.yaml"):
        if path.is_file():
            return path
    shipped = sorted(path.stem for path in PLANS.glob("*.yaml"))
    raise ConfigError(
        f"there is no plan {quote(plan)}",
        f"{did_you_mean(Path(plan).stem, shipped)}give the path of a YAML file, or one of {', '.join(shipped)}",
    )


def _read(values: dict[str, Any], name: str) -> AblationPlan:
    keys = {key.name: key for key in keys_of(AblationPlan)}
    problems: list[Problem] = []
    given: dict[str, Any] = {}
    for dotted, value in flatten(values, keys).items():
        if dotted not in keys:
            problems.append(Problem(what=f"{quote(dotted)} is not a key", hint=did_you_mean(dotted, keys).strip()))
            continue
        checked, problem = check_value(keys[dotted], value)
        if problem is None:
            given[dotted] = checked
        else:
            problems.append(problem)
    plan = build(AblationPlan, {"name": name} | given, problems)
    if plan is not None and not problems:
        problems += plan.mistakes()
    refuse(f"plan {quote(name)}", problems, more=SEE)
    assert isinstance(plan, AblationPlan)
    return plan


def _recipe(section: PlannedRun, task: str, shared: dict[str, Any], name: str) -> RunConfig:
    """The section's recipe without its validation, then what is shared, then its overrides."""
    assert section.recipe is not None
    path = find_recipe(section.recipe)
    names = [key.name for key in recipe_keys(task)]
    values = flatten(read_recipe(path), names)
    values = {key: value for key, value in values.items() if key not in VALIDATED}
    values |= {key: value for key, value in shared.items() if key in names} | flatten(section.overrides, names)
    run: RunConfig = resolve(values, name=path.stem)
    if run.task != task:
        raise ConfigError(
            f"recipe {quote(path.stem)} of {name} is of the task {run.task}, not of {task}",
            "name a recipe of that task",
        )
    return run


def _shared(plan: AblationPlan, pretraining: RunConfig) -> dict[str, Any]:
    """The keys that `from_pretraining` names, with the values of the pretraining recipe."""
    names = [key.name for key in recipe_keys(DEFAULT_TASK)]
    values = flatten(to_dict(pretraining), names)
    shared: dict[str, Any] = {}
    for section in plan.from_pretraining:
        found = {key: value for key, value in values.items() if key == section or key.startswith(f"{section}.")}
        if not found:
            raise ConfigError(
                f"from_pretraining: {quote(section)} is no section or key of pretraining",
                f"{did_you_mean(section, names)}name one such as model or data.augment",
            )
        shared |= found
    return shared
