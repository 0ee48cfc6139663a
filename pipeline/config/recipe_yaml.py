"""YAML as recipes use it: unquoted values keep their text, and no file takes longer to read than its size suggests.

YAML 1.1 reads `2026-11-27` as a date, `no` as false, `012` as ten, `1:30` as ninety and `1e-4` as a text. Only the
key's type decides what was meant, in `pipeline.config.recipe`; until then a value without quotes is a `Plain`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from samples.quote import quote

MAX_DEPTH = 32
MAX_SIZE = 100_000
"""Largest number of values and letters of a file with every alias expanded. A larger file is rejected before it is
expanded: a few aliases of aliases can stand for gigabytes."""
MAX_DIGITS = 30
"""Most digits of a number: Python takes minutes to convert very long ones, and no key takes more than 64 bits."""


@dataclass(frozen=True, repr=False)
class Plain:
    """A value without quotes that may be a number, a boolean or null."""

    text: str
    """As written."""
    value: bool | int | float | None
    """Its value where a number, a boolean or null is expected."""

    def __repr__(self) -> str:
        return self.text or "null"


def load_yaml(text: str) -> Any:
    """One document: dictionaries with texts as keys, lists, texts and `Plain`s; None for an empty one.

    Raises: yaml.YAMLError, also for a key written twice, tags, aliases that make it large or endless, and depth.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def why_not_yaml(error: yaml.YAMLError) -> str:
    """What is wrong with the YAML, with line and column."""
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or error
    where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
    return quote(what, 150) + where


class _Loader(yaml.SafeLoader):
    """SafeLoader without tags, without its implicit types, and with a limit on nesting."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - an instance variable to types-PyYAML

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _problem(f"nested more than {MAX_DEPTH} deep", self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if parent is None and node is not None:
            _weigh(node, {})
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key_node, _ in node.value:
            key, line = _key(key_node), key_node.start_mark.line + 1
            if key in lines:
                what = f"{quote(key)} is written twice, in line {lines[key]} and in line {line}"
                raise _problem(what, key_node.start_mark)
            lines[key] = line
        self.flatten_mapping(node)  # `<<: *defaults`
        return {_key(key_node): self.construct_object(value, deep=deep) for key_node, value in node.value}

    def construct_plain(self, node: yaml.ScalarNode) -> Plain | str:
        """A scalar by the tag that the resolvers below gave it."""
        text: str = node.value
        kind = node.tag.rpartition(":")[2]
        digits = text.replace("_", "")
        if kind == "null":
            return Plain(text, None)
        if kind == "bool":
            return Plain(text, text.lower() in ("true", "yes", "on"))
        try:
            if len(digits) > MAX_DIGITS:
                return text
            return Plain(text, int(digits, 16 if "x" in text else 10) if kind == "int" else float(_python(digits)))
        except ValueError:  # `!!int x`: a text, which the key's type accepts or rejects
            return text


def _python(number: str) -> str:
    """YAML's `.inf` and `.nan` as Python writes them."""
    return re.sub(r"\.(inf|nan)", r"\1", number.lower())


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise _problem("a key that is no text", node.start_mark)
    return node.value


def _weigh(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Size and depth of a node with its aliases expanded."""
    if id(node) in known:
        if known[id(node)] == (0, 0):
            raise _problem("an alias of what it stands in", node.start_mark)
        return known[id(node)]
    known[id(node)] = (0, 0)
    inside: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inside = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inside = node.value
    size, depth = 1 if inside or not isinstance(node, yaml.ScalarNode) else 1 + len(node.value), 1
    for part in inside:
        part_size, part_depth = _weigh(part, known)
        size, depth = size + part_size, max(depth, 1 + part_depth)
    if size > MAX_SIZE or depth > MAX_DEPTH:
        raise _problem("too large, or nested too deep, with its aliases written out", node.start_mark)
    known[id(node)] = size, depth
    return size, depth


def _problem(what: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=mark)


def _resolve(tag: str, pattern: str, first: str) -> None:
    letters: list[str] = [*first, ""] if tag == "null" else list(first)
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), letters)


_resolve("merge", "<<", "<")
_resolve("null", "~|null|Null|NULL|", "~nN")
_resolve("bool", "(?i:yes|no|true|false|on|off)", "yYnNtTfFoO")
_resolve("int", "[-+]?(?:[0-9][0-9_]*|0x[0-9a-fA-F_]+)", "-+0123456789")
_resolve("float", r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?", "-+.0123456789")
_resolve("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.")

_Loader.yaml_constructors = {
    **{f"tag:yaml.org,2002:{kind}": _Loader.construct_plain for kind in ("null", "bool", "int", "float")},
    "tag:yaml.org,2002:str": _Loader.construct_yaml_str,
    "tag:yaml.org,2002:seq": _Loader.construct_yaml_seq,
    "tag:yaml.org,2002:map": _Loader.construct_yaml_map,
    None: _Loader.construct_undefined,
}
