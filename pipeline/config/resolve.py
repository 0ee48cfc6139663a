"""A run's configuration from recipe, preset and flags.

Precedence: defaults < preset < recipe < flags.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from albef.config import AlbefConfig
from albef.errors import ConfigError
from base.nearest import did_you_mean, nearest
from pipeline.config.recipe import (
    MAX_PROBLEMS,
    ConfigField,
    Problem,
    build,
    check_value,
    find_recipe,
    flatten,
    keys_of,
    parse_overrides,
    read_flag,
    read_recipe,
    refuse,
)
from pipeline.config.recipe_yaml import Plain
from pipeline.config.run_config import DEFAULT_TASK, RUNS, RunConfig, to_dict
from samples.quote import quote

PRESETS: dict[str, dict[str, Any]] = {
    "fixed": {},
    "paper": {
        "data.augment.randaugment_overflow": True,
        "objective.teacher_before_load": True,
        "objective.teacher_dropout": True,
        "objective.first_token_twice": True,
        "optim.decay_groups": "official",
        "schedule.mode": "per_epoch",
    },
}
"""What a preset changes of the defaults, by dotted name; a task takes those that it has."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]

LIMITS: dict[str, Any] = {
    "task": Literal[*RUNS],
    **{
        f"model.{whole.name}": NonNegativeInt if whole.name.endswith("_token_id") else PositiveInt
        for whole in dataclasses.fields(AlbefConfig)
        if whole.type == "int"
    },
    "model.temperature": PositiveFloat,
    "model.layer_init_std": PositiveFloat,
    "model.hidden_dropout": Dropout,
    "model.attention_dropout": Dropout,
    "objective.alpha": Fraction,
    "objective.momentum": Fraction,
    "objective.mlm_probability": Fraction,
    "objective.queue_size": NonNegativeInt,
    "objective.queue_check_every": NonNegativeInt,
    "objective.max_text_tokens": PositiveInt,
}
"""Limits of the fields of `albef`, whose classes have none because `albef` does not import pydantic; and the tasks."""

SIZE = ConfigField(
    name="model.size",
    type=Literal["base", "tiny"],
    default="base",
    doc="base is the paper's model; tiny is one that two CPU cores train in minutes. Every other model key "
    "overrides what the size sets.",
)


@functools.cache
def recipe_keys(task: str = DEFAULT_TASK) -> tuple[ConfigField, ...]:
    """Everything a recipe of a task or a flag can set, in the order of RunConfig."""
    keys = keys_of(RUNS[task], narrower=LIMITS)
    first_of_model = next(index for index, key in enumerate(keys) if key.name.startswith("model."))
    return (*keys[:first_of_model], SIZE, *keys[first_of_model:])


def load_config(
    recipe: str | Path,
    overrides: Iterable[str] = (),
    *,
    task: str | None = None,
    other_flags: Iterable[str] = (),
) -> Any:
    """A run's configuration from a recipe and flags: the `RunConfig` of its task.

    Args:
        recipe: path of a YAML file, or the name of a recipe that ships with the project.
        overrides: flags as typed: `["--optim.lr", "1e-4", "--seed=3"]`.
        task: the only task whose recipes are accepted; None accepts any.
        other_flags: names of the command's own flags, to suggest one for a misspelt flag.

    Raises: ConfigError that lists every mistake in recipe and flags at once, or names the command for a recipe of
        another task.
    """
    path = find_recipe(recipe)
    name = path.parent.name if path.name == "config.yaml" else path.stem
    run = resolve(read_recipe(path), parse_overrides(overrides), name=name, other_flags=other_flags)
    if task is not None and run.task != task:
        raise ConfigError(
            f"recipe {quote(name)} is of the task {run.task}, not of {task}",
            f"train it with `python -m pipeline {run.command} {quote(recipe)}`, or write `task: {task}` in a recipe of "
            "that task",
        )
    return run


def resolve(
    values: dict[str, Any],
    flags: dict[str, str | None] | None = None,
    *,
    name: str,
    other_flags: Iterable[str] = (),
) -> Any:
    """A run's configuration from a recipe's mapping and flags by dotted name; `name` is for messages and the run."""
    task = _task_of(values, flags or {})
    keys = {key.name: key for key in recipe_keys(task)}
    problems: list[Problem] = []
    given: dict[str, Any] = {}

    def take(dotted: str, value: Any, shown: str) -> None:
        if dotted not in keys:
            more = len(problems) >= MAX_PROBLEMS  # only counted: looking for the nearest name is slow
            problems.append(Problem(what=dotted) if more else _unknown(dotted, shown, task, other_flags))
            return
        checked, problem = check_value(keys[dotted], value)
        if problem is None:
            given[dotted] = checked
        else:
            problems.append(problem)

    for dotted, value in flatten(values, keys).items():
        if not (flags and dotted in flags):
            take(dotted, value, dotted)
    for dotted, text in (flags or {}).items():
        if dotted in keys and text is None:
            problems.append(Problem(what=f"--{dotted} needs a value", hint=f"write --{dotted} VALUE"))
        else:
            take(dotted, read_flag(keys[dotted], text) if dotted in keys and text else text, f"--{dotted}")

    preset = {key: value for key, value in PRESETS[given.get("preset", "fixed")].items() if key in keys}
    size = AlbefConfig.tiny() if given.pop("model.size", "base") == "tiny" else AlbefConfig.base()
    sized = {f"model.{key}": value for key, value in size.to_dict().items()}
    # an int given for a float field becomes a float, so that a dumped recipe reads back to the last digit
    floats = {key.name: float(key.default) for key in keys.values() if key.is_float and type(key.default) is int}
    run = build(RUNS[task], {"name": name} | floats | sized | preset | given, problems)
    if run is not None:
        problems += run.mistakes()
    more = f"`python -m pipeline {RUNS[task].command} --help` lists every key with its meaning"
    refuse(f"recipe {quote(name)}", problems, more=more)
    return run


def differences(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
    """What changed between two configurations: dotted name -> (old value, new value)."""
    names = [key.name for run in (old, new) for key in recipe_keys(run.task)]
    before, after = flatten(to_dict(old), names), flatten(to_dict(new), names)
    return {name: (before.get(name), after.get(name)) for name in after if before.get(name) != after.get(name)}


def _task_of(values: Mapping[str, Any], flags: Mapping[str, str | None]) -> str:
    """The task that flags or recipe name. One that does not exist is a mistake in its key, among all others."""
    value = flags.get("task") or values.get("task")
    name = value.text if isinstance(value, Plain) else value
    return name if isinstance(name, str) and name in RUNS else DEFAULT_TASK


def _unknown(dotted: str, shown: str, task: str, other_flags: Iterable[str]) -> Problem:
    """The problem of a name that is no key of the task, with the nearest key, or the command's nearest flag."""
    keys = {key.name: key for key in recipe_keys(task)}
    if others := [other for other in RUNS if dotted in {key.name for key in recipe_keys(other)}]:
        return Problem(what=f"{shown} is not a key of the task {task}", hint=f"it is one of {', '.join(others)}")
    dotted, shown = quote(dotted), quote(shown)
    inside = [name for name in keys if name.startswith(f"{dotted}.")]
    if inside:
        return Problem(what=f"{shown} is a section, not a value", hint=f"set what is in it, as {inside[0]}")
    if not shown.startswith("--"):
        return Problem(what=f"{shown} is not a key", hint=did_you_mean(dotted, keys).strip())
    flags = {flag.lstrip("-"): flag for flag in other_flags} | {name: f"--{name}" for name in keys}
    close = nearest(dotted, flags)
    return Problem(what=f"{shown} is not a flag or a key", hint=f"did you mean {flags[close]}?" if close else "")
