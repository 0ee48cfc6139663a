"""docs/recipes.md, the reference of every recipe key, written from the dataclasses: `make docs`.

A test compares the page with what is written here, so it cannot fall behind the code.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from pathlib import Path
from typing import Any

import annotated_types
from pydantic.fields import FieldInfo

from albef.config import LIMITS, AlbefConfig
from pipeline.config.recipe import RECIPES, ConfigField, shipped_recipes
from pipeline.config.resolve import PRESETS, recipe_keys
from pipeline.config.run_config import RUNS
from pipeline.config.sections import ModelConfig

HEAD = """# Every key of a recipe

`make docs` writes this page from `pipeline/config/sections.py`, `annotation_sections.py` beside it and the classes of
`albef` that they name, and a test compares them. `python -m pipeline pretrain --help` prints the keys of pretraining,
`python -m pipeline finetune TASK --help` those of another task.

Most sections are the same in every task. One that differs is listed once for each form, with the tasks that have it.

A recipe is a YAML file of `key: value` lines, in the sections below. Every key is also a flag with its dotted name:
`--optim.lr 5e-5`, `--data.manifests data/coco,data/cc3m`. A flag overrides the recipe, the recipe overrides the preset,
and the preset overrides the default. A key that does not exist, a value outside its limits and a key written twice are
errors; all of them are listed at once, with the nearest valid name.

`python -m pipeline check RECIPE` prints the value of every key. A run writes the same text to `config.yaml` in its
folder, which is itself a recipe.
"""


def page() -> str:
    """The page as Markdown."""
    blocks = [HEAD, _recipes(), _presets()]
    outside = [key for key in recipe_keys() if "." not in key.name]
    blocks.append(_section("The run", "Keys outside any section.", outside))
    for name, cls, tasks in _forms():
        own = [key for key in recipe_keys(tasks[0]) if key.name.rpartition(".")[0] == name]
        if not own:
            continue
        title = f"`{name}`" if len(tasks) == len(RUNS) else f"`{name}` of {', '.join(tasks)}"
        blocks.append(_section(title, " ".join((inspect.getdoc(cls) or "").split()), own))
        if cls is ModelConfig:
            blocks.append(_sizes())
    return "\n".join(blocks)


def _forms() -> list[tuple[str, type, list[str]]]:
    """Each section's dotted name and class, and the tasks that have it in this form; forms of one name together."""
    tasks: dict[str, dict[type, list[str]]] = {}
    for task, run in RUNS.items():
        for name, cls in _sections(run):
            tasks.setdefault(name, {}).setdefault(cls, []).append(task)
    return [(name, cls, of_form) for name, forms in tasks.items() for cls, of_form in forms.items()]


def _sections(cls: type, prefix: str = "") -> list[tuple[str, type]]:
    """Dotted name and class of each dataclass in `cls`, in order, outer ones before those in them."""
    found: list[tuple[str, type]] = []
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            inner = typing.cast(type, kind)
            name = prefix + field.name
            found.append((name, inner))
            found += _sections(inner, f"{name}.")
    return found


def _section(title: str, doc: str, keys: list[ConfigField]) -> str:
    rows = [[f"`{key.name}`", _values(key), f"`{_yaml(key.default)}`", key.doc] for key in keys]
    return f"## {title}\n\n{doc}\n\n" + _table(["key", "values", "default", "meaning"], rows)


def _recipes() -> str:
    rows = []
    for name in shipped_recipes():
        first = (RECIPES / f"{name}.yaml").read_text().splitlines()[0].removeprefix("# ")
        rows.append([f"[`{name}`](../pipeline/config/recipes/{name}.yaml)", first])
    text = "These ship with the project. The comments in each name its hardware, time and sources."
    return f"## Recipes\n\n{text}\n\n" + _table(["recipe", "what it trains"], rows)


def _presets() -> str:
    rows = [
        [f"`{preset}`", f"`{name}`", f"`{_yaml(value)}`"]
        for preset, values in PRESETS.items()
        for name, value in values.items()
    ]
    text = (
        "A preset changes defaults; recipe and flags have the last word. `fixed`, the default preset, changes none.\n"
        "`paper` trains as the original did, its known defects included."
    )
    return f"## Presets\n\n{text}\n\n" + _table(["preset", "key", "default becomes"], rows)


def _sizes() -> str:
    base, tiny = AlbefConfig.base().to_dict(), AlbefConfig.tiny().to_dict()
    rows = [[f"`model.{name}`", f"`{base[name]}`", f"`{tiny[name]}`"] for name in base if base[name] != tiny[name]]
    return "What `model.size` sets:\n\n" + _table(["key", "base", "tiny"], rows)


def _values(key: ConfigField) -> str:
    """What the key takes, with its limits: `a number, above 0`."""
    section, _, name = key.name.rpartition(".")
    limits = _limits(key.type)
    if section == "model" and name in LIMITS:
        least, most = LIMITS[name]
        limits = [f"{least:,} to {most:,}"]
    return ", ".join([key.type_name, *limits])


def _limits(kind: Any) -> list[str]:
    """The limits in a type's annotations, also where the type is one of several alternatives."""
    found: list[str] = []
    for part in typing.get_args(kind):
        if isinstance(part, FieldInfo):
            found += [text for limit in part.metadata if (text := _limit(limit))]
        elif text := _limit(part):
            found.append(text)
        elif typing.get_origin(part) is typing.Annotated:
            found += _limits(part)
    return found


def _limit(limit: object) -> str:
    match limit:
        case annotated_types.Gt(gt=bound):
            return f"above {bound}"
        case annotated_types.Ge(ge=bound):
            return f"at least {bound}"
        case annotated_types.Lt(lt=bound):
            return f"below {bound}"
        case annotated_types.Le(le=bound):
            return f"at most {bound}"
        case _:
            return ""


def _yaml(value: object) -> str:
    """A value as a recipe would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return "null" if value is None else str(value)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
