"""Recipes as text: find the YAML, read it strictly, parse `--a.b value` flags, and turn both into dataclasses.

All mistakes are reported at once, each with its dotted name and, for a misspelt name, the nearest valid one.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import os
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import yaml

from albef.errors import ConfigError
from base.nearest import did_you_mean
from pipeline.config.recipe_yaml import Plain, load_yaml, why_not_yaml
from pipeline.config.text_file import read_text
from samples.quote import quote

MAX_PROBLEMS = 30
"""Largest number of mistakes that one message lists."""
RECIPES = Path(__file__).resolve().parent / "recipes"


@dataclass(frozen=True, kw_only=True)
class ConfigField:
    """One leaf of the configuration: what a recipe or a flag can set."""

    name: str
    """Dotted, as in `optim.lr`."""
    type: Any
    """Its type, with limits where it has some."""
    default: Any
    doc: str

    @property
    def type_name(self) -> str:
        """The type as a reader would write it: `int`, `float or null`, `tiny | base`, `list of str`."""
        return _type_name(self.type)

    @property
    def is_float(self) -> bool:
        """Whether a whole number given here becomes a float."""
        members = _members(self.type)
        return float in members and int not in members


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake in a recipe or a flag."""

    what: str
    hint: str = ""


def find_recipe(recipe: str | Path) -> Path:
    """The file of a recipe given by path or by the name of one that ships with the project.

    Raises: ConfigError that lists the recipes there are, nearest first.
    """
    text = str(recipe)
    for path in (Path(text), RECIPES / f"{text}.yaml", RECIPES / text, Path(text) / "config.yaml"):
        if os.path.isfile(path):
            return path
    raise ConfigError(
        f"there is no recipe {quote(text)}",
        f"{did_you_mean(Path(text).stem, shipped_recipes())}give the path of a YAML file, or one of "
        + ", ".join(shipped_recipes()),
    )


def shipped_recipes() -> list[str]:
    """Names of the recipes in pipeline/config/recipes/."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, its values as `load_yaml` returns them; `check_value` reads them by type.

    Raises: ConfigError naming line and column.
    """
    text = read_text(path, "a recipe", "give the path of a YAML recipe")
    try:
        values = load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{quote(path)} is not valid YAML: {why_not_yaml(error)}", "fix that line") from None
    if values is None or (isinstance(values, Plain) and values.value is None):
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{quote(path)} does not hold `key: value` lines", "see pipeline/config/recipes/demo.yaml")
    return values


def parse_overrides(flags: Iterable[str]) -> dict[str, str | None]:
    """`["--optim.lr", "1e-4", "--seed=3"]` -> `{"optim.lr": "1e-4", "seed": "3"}`; the last one wins.

    A flag without a value maps to None. Raises: ConfigError for a value without a flag.
    """
    found: dict[str, str | None] = {}
    waiting = ""
    for token in flags:
        if token.startswith("--"):
            name, equals, value = token[2:].partition("=")
            name = name.replace("-", "_")
            found[name] = value if equals else None
            waiting = "" if equals else name
        elif waiting:
            found[waiting] = token
            waiting = ""
        else:
            raise ConfigError(f"unexpected argument {quote(token)}", "recipe keys are set as `--optim.lr 1e-4`")
    return found


def keys_of(cls: type, *, narrower: Mapping[str, Any] | None = None, prefix: str = "") -> list[ConfigField]:
    """Every leaf of a dataclass of dataclasses, in order, with the docstring under its field.

    Args:
        narrower: types with limits, by dotted name, for fields whose own type has none.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    docs = field_docs(cls)
    keys: list[ConfigField] = []
    for field in dataclasses.fields(cls):
        name, kind = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(kind):
            keys += keys_of(typing.cast(type, kind), narrower=narrower, prefix=f"{name}.")
            continue
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            default = field.default
        kind = (narrower or {}).get(name, kind)
        keys.append(ConfigField(name=name, type=kind, default=default, doc=docs.get(field.name, "")))
    return keys


def field_docs(cls: type) -> dict[str, str]:
    """The string under each field of a dataclass, on one line; also of the fields that it inherits."""
    docs = {
        name: doc for base in cls.__bases__ if dataclasses.is_dataclass(base) for name, doc in field_docs(base).items()
    }
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    for field, below in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            docs[field.target.id] = " ".join(below.value.value.split())
    return docs


def flatten(values: Mapping[str, Any], names: Iterable[str], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted names; a mapping is descended into only where it is a section, not where it is a value.

    Raises: ConfigError for a key that is set in its section and by its dotted name.
    """
    names = list(names)
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        is_section = any(valid.startswith(f"{name}.") for valid in names)
        if is_section and (value is None or (isinstance(value, Plain) and value.value is None)):
            continue  # `optim:` with nothing under it
        found = flatten(value, names, f"{name}.") if is_section and isinstance(value, Mapping) else {name: value}
        if twice := sorted(flat.keys() & found.keys()):
            raise ConfigError(f"{quote(twice[0])} is written twice, under two spellings", "remove one of them")
        flat |= found
    return flat


def read_flag(key: ConfigField, text: str) -> Any:
    """The value of a flag: read as YAML, but verbatim where the key is a text; `a,b` is a list."""
    kinds = _members(key.type)
    if type(None) in kinds and text.lower() in ("null", "none", "~", ""):
        return None
    if str in kinds or any(typing.get_origin(kind) is typing.Literal for kind in kinds):
        return text
    inner = _element(kinds)
    if inner is not None and not text.startswith("["):
        return [part if str in _members(inner) else _read_yaml(part) for part in text.split(",") if part]
    return _read_yaml(text)


def check_value(key: ConfigField, value: Any) -> tuple[Any, Problem | None]:
    """The value converted to the key's type, or the problem with it."""
    kinds = _members(key.type)
    shown = quote(repr(value))
    try:
        adapter = pydantic.TypeAdapter(key.type, config=pydantic.ConfigDict(coerce_numbers_to_str=True))
        settled = _settle(key.type, value)
        # Checked twice: before the limits, which NaN never satisfies, and after texts became numbers.
        problem = _out_of_range(settled) or _out_of_range(checked := adapter.validate_python(settled))
        return (None, Problem(what=f"{key.name} should be {problem}, is {shown}")) if problem else (checked, None)
    except TypeError:
        return None, Problem(what=f"{key.name} should be {key.type_name}, is {shown}")
    except pydantic.ValidationError as error:
        detail = error.errors()[0]
        hint = ""
        if detail["type"] == "literal_error":
            choices = [str(choice) for kind in kinds for choice in typing.get_args(kind)]
            hint = did_you_mean(quote(value), choices).strip()
        limit = detail["msg"].removeprefix("Input should be ")
        wanted = limit if detail["type"].startswith(("greater", "less")) else key.type_name
        return None, Problem(what=f"{key.name} should be {wanted}, is {shown}", hint=hint)


def build(cls: type, values: Mapping[str, Any], problems: list[Problem], prefix: str = "") -> Any:
    """Make a dataclass of dataclasses from checked values by dotted name; keys without a value keep their default.

    A ConfigError raised by a section's own checks is added to `problems`, and None is returned.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        name, kind = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(kind):
            arguments[field.name] = build(typing.cast(type, kind), values, problems, f"{name}.")
        elif name in values:
            arguments[field.name] = values[name]
    if problems and any(value is None for name, value in arguments.items() if dataclasses.is_dataclass(hints[name])):
        return None
    try:
        return cls(**arguments)
    except ConfigError as error:
        problems.append(Problem(what=error.message, hint=error.hint))
        return None


def refuse(where: str, problems: list[Problem], *, more: str) -> None:
    """Raise one ConfigError that lists every problem; do nothing when there is none."""
    if not problems:
        return
    if len(problems) == 1:
        raise ConfigError(f"{where}: {problems[0].what}", problems[0].hint or more)
    shown = problems[:MAX_PROBLEMS]
    lines = [f"  {problem.what}" + (f" ({problem.hint})" if problem.hint else "") for problem in shown]
    lines += [f"  and {len(problems) - len(shown)} more"] if len(problems) > len(shown) else []
    raise ConfigError("\n".join([f"{where} has {len(problems)} mistakes:", *lines]), more)


def _read_yaml(text: str) -> Any:
    """A flag's value; the text itself where it is not YAML."""
    try:
        return load_yaml(text)
    except yaml.YAMLError:
        return text


def _settle(kind: Any, value: Any) -> Any:
    """A recipe's value, read by its type: the text as written where the type is a text, else what YAML reads.

    Raises: TypeError for a boolean where none is expected: Python would take it for 0 or 1.
    """
    kinds = _members(kind)
    if isinstance(value, Plain):
        if value.value is None:
            return None
        if str in kinds or value.text in [choice for member in kinds for choice in typing.get_args(member)]:
            return value.text
        value = value.value
    if isinstance(value, bool) and not {bool, object} & set(kinds):
        raise TypeError(value)
    if isinstance(value, list | tuple):
        inner = _element(kinds)
        return [_settle(object if inner is None else inner, part) for part in value]
    return value


def _element(kinds: Iterable[Any]) -> Any:
    """The type of a list's entries; None where no list is expected."""
    return next((typing.get_args(kind)[0] for kind in kinds if typing.get_origin(kind) in (tuple, list)), None)


def _out_of_range(value: Any) -> str:
    """What the number should be if it is not finite or too large for 64 bits; an empty text if it is fine."""
    if isinstance(value, list | tuple):
        return next(filter(None, map(_out_of_range, value)), "")
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    return "a whole number of 64 bits" if type(value) is int and not -(2**63) <= value < 2**63 else ""


def _members(kind: Any) -> list[Any]:
    """The alternatives of a union, without their limits; a plain type is its own only alternative."""
    if typing.get_origin(kind) is typing.Annotated:
        return _members(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return [member for part in typing.get_args(kind) for member in _members(part)]
    return [kind]


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Annotated:
        return _type_name(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return " or ".join(_type_name(part) for part in typing.get_args(kind))
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(str(choice) for choice in typing.get_args(kind))
    if typing.get_origin(kind) in (tuple, list):
        inner = [part for part in typing.get_args(kind) if part is not Ellipsis]
        count = f"{len(inner)} " if typing.get_origin(kind) is tuple and Ellipsis not in typing.get_args(kind) else ""
        return f"list of {count}{_type_name(inner[0])}" if inner else "list"
    names = {type(None): "null", bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return names.get(kind) or str(getattr(kind, "__name__", kind))
