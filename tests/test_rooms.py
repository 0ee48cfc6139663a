"""Which room may import which: each only rooms below it, and no file in a circle. Names in strings count."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tests.pipeline.engine.test_deepspeed_contract import CONTRACT

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("albef", "base", "data_prep", "demo", "pipeline", "samples")

LEVELS = {
    "albef": [
        ["albef.errors"],
        ["albef.evaluation_mode", "albef.precision", "albef.regular_file"],
        ["albef.config", "albef.json_file"],
        ["albef.kernels"],
        ["albef.inputs"],
        ["albef.network", "albef.objective"],
        ["albef.model"],
        ["albef.momentum"],
        ["albef.downstream"],
        ["albef.weights"],
        ["albef.saved_model"],
        ["albef.gradcam", "albef.gradcam_itc", "albef.grounding", "albef.pretrained", "albef.trained"],
    ],
    "data_prep": [
        ["data_prep.errors"],
        ["data_prep.output"],
        ["data_prep.lists"],
        ["data_prep.workers"],
        ["data_prep.shards"],
        ["data_prep.sources"],
        ["data_prep.fetch"],
        ["data_prep.accounts"],
        ["data_prep.stages"],
        ["data_prep.filters"],
        ["data_prep.report"],
        ["data_prep.commands.flags"],
        ["data_prep.commands"],
        ["data_prep.cli"],
        ["data_prep.__main__"],
    ],
    "pipeline": [
        ["pipeline.exit_codes"],
        ["pipeline.task"],
        ["pipeline.config"],
        ["pipeline.data.seeds"],
        # a lane's samples are listed by where they lie, and a manifest's are put in order: each is small
        ["pipeline.data.corpus"],
        ["pipeline.data.sampling"],
        ["pipeline.data"],
        ["pipeline.engine"],
        ["pipeline.task_maker"],
        ["pipeline.checkpoints"],
        ["pipeline.run"],
        ["pipeline.export"],
        ["pipeline.watch"],
        ["pipeline.tasks.retrieval"],
        ["pipeline.tasks.finetuning"],
        ["pipeline.planning.flops"],  # for the trainer's MFU
        ["pipeline.train"],
        [
            "pipeline.tasks.grounding",
            "pipeline.tasks.nlvr2",
            "pipeline.tasks.pretraining",
            "pipeline.tasks.retrieval.finetuning",
            "pipeline.tasks.snli_ve",
            "pipeline.tasks.text_assignment",
            "pipeline.tasks.vqa",
        ],
        ["pipeline.tasks.makers"],
        ["pipeline.planning"],
        ["pipeline.tasks"],
        ["pipeline.ablation"],
        ["pipeline.cli"],
        ["pipeline.__main__"],
    ],
}
"""From the bottom up. Rooms of one level may import each other; a file belongs to the longest name it begins with."""


@cache
def modules() -> dict[str, Path]:
    """Every module of the product, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


@cache
def imports() -> dict[str, set[str]]:
    """Module -> the product's modules that it imports, inside functions too, or names in a string."""
    found: dict[str, set[str]] = {}
    for name, path in modules().items():
        owners = {owner(word) for word in words_of(path)}
        found[name] = {module for module in owners if module is not None and module != name}
    return found


def words_of(path: Path) -> Iterable[str]:
    """Dotted names that a file imports or has as a whole string."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and str(node.value) in modules() and "." in str(node.value):
            yield str(node.value)


def owner(word: str) -> str | None:
    """The module that an imported name belongs to; a bare package is none."""
    while "." in word and word not in modules():
        word = word.rpartition(".")[0]
    return word if "." in word and word in modules() else None


def level(module: str) -> int:
    """How high a module stands in its package."""
    levels = LEVELS[module.partition(".")[0]]
    names = [(len(name), number) for number, names in enumerate(levels) for name in names if belongs(module, name)]
    assert names, f"{module} is in no room of LEVELS"
    return max(names)[1]


def belongs(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def test_no_room_imports_one_above_it() -> None:
    """What a file reaches, it reaches downwards or in its own level."""
    upwards = []
    for package in LEVELS:
        for module in (name for name in modules() if name.startswith(f"{package}.")):
            mine = level(module)
            same = [other for other in imports()[module] if other.startswith(f"{package}.")]
            upwards += [f"{module} imports {other}" for other in same if level(other) > mine]
    assert upwards == []


def test_no_file_imports_itself_in_a_circle() -> None:
    """Files that import none of the rest, and files that none of the rest imports, go until none is left."""
    left = {name: set(targets) for name, targets in imports().items()}
    while True:
        imported = {target for name, targets in left.items() for target in targets}
        ends = {name for name, targets in left.items() if name not in imported or not targets & left.keys()}
        if not ends:
            break
        left = {name: targets for name, targets in left.items() if name not in ends}
    assert sorted(left) == []


OF_A_TASK = re.compile(r"\b(teachers?|queues?|pretrain batch(er)?)\b")
"""Words in the names and strings of tasks. Requeued jobs are Slurm's."""


def named(path: Path) -> Iterable[tuple[int, str]]:
    """Line and text of every identifier, imported name and string of a file, docstrings too.

    A recipe's objective section (`albef.config`) has its own words: its keys (`"objective.momentum"`) and the fields of
    what is called `objective` are left out.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str | None] = []
        match node:
            case ast.Constant(value=str(text)):
                names = [text] if not re.fullmatch(r"objective\.\w+", text) else []
            case ast.Attribute(value=ast.Name(id="objective") | ast.Attribute(attr="objective")):
                pass
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.arg(arg=name) | ast.keyword(arg=name):
                names = [name]
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names = [name]
            case ast.ImportFrom(module=module, names=aliases):
                names = [module, *(alias.name for alias in aliases), *(alias.asname for alias in aliases)]
            case ast.Import(names=aliases):
                names = [*(alias.name for alias in aliases), *(alias.asname for alias in aliases)]
        yield from ((getattr(node, "lineno", 0), name) for name in names if name)


def words(text: str) -> str:
    """The words of a text or of a name in any spelling, in lower case: `FeatureQueue`, `queue_size`, `a queue`."""
    return re.sub(r"[^a-z]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower())


def test_only_a_task_names_what_is_its_own() -> None:
    """No file of `pipeline` outside of the tasks' folders names a teacher, the feature queue or `PretrainBatch`: they
    serve every task."""
    found = []
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        file = str(path.relative_to(ROOT))
        rooms = "finetuning|grounding|nlvr2|pretraining|retrieval/finetuning|snli_ve|vqa"
        if not re.match(rf"pipeline/tasks/({rooms})/", file):
            found += [f"{file}:{line}: {text}" for line, text in named(path) if OF_A_TASK.search(words(text))]
    assert found == []


# What of DeepSpeed is used where

KNOW_DEEPSPEED = ("pipeline.engine", "pipeline.checkpoints")
"""The rooms that know DeepSpeed's insides."""
DOCUMENTED = {"backward", "load_checkpoint", "module", "optimizer", "param_groups", "save_checkpoint", "step"}
"""What DeepSpeed's documentation has of an engine and its optimizer."""
ENGINES = ("engine", "optimizer")
"""What variables and attributes that are DeepSpeed's are called."""
ONLY_SHOWN = {"skipped_steps"}
"""Also read outside, by the trainer, to log it."""
CONFIG_KEYS = {"zero_optimization"}
"""Of DeepSpeed's JSON, and documented; the engine's method of that name is not."""
NOT_DEEPSPEED = {"cls", "self", "torch"}
"""Names whose attributes with an underscore are not DeepSpeed's."""


def internals_of_deepspeed(module: str, path: Path) -> Iterable[str]:
    """Names that a file imports out of DeepSpeed, takes from an engine or optimizer, or has as a whole string.

    In the rooms that know DeepSpeed any attribute with an underscore counts.
    """
    knows = any(belongs(module, room) for room in KNOW_DEEPSPEED)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("deepspeed."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deepspeed"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and node.value in CONTRACT.keys() - CONFIG_KEYS:
            yield str(node.value)
        elif isinstance(node, ast.Attribute):
            base = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
            private = knows and re.match("_[^_]", node.attr) and base not in NOT_DEEPSPEED
            if (base, node.attr) == ("optimizer", "optimizer"):
                yield "optimizer.optimizer"
            elif private or node.attr in CONTRACT or (base in ENGINES and node.attr not in DOCUMENTED):
                yield node.attr


@cache
def uses_of_deepspeed() -> dict[str, set[str]]:
    """Module -> names."""
    files = {name: path for name, path in modules().items() if belongs(name, "pipeline")}
    return {name: found for name, path in files.items() if (found := set(internals_of_deepspeed(name, path)))}


def test_two_rooms_know_the_insides_of_deepspeed() -> None:
    """No other file of the product takes an undocumented name of it."""
    outside = {
        name: sorted(found - ONLY_SHOWN)
        for name, found in uses_of_deepspeed().items()
        if found - ONLY_SHOWN and not any(belongs(name, room) for room in KNOW_DEEPSPEED)
    }
    assert outside == {}


def test_every_inside_of_deepspeed_has_a_test_of_its_meaning() -> None:
    """And none is tested that nothing uses."""
    used = {name for found in uses_of_deepspeed().values() for name in found}
    assert sorted(used - CONTRACT.keys()) == []
    assert sorted(CONTRACT.keys() - used) == []
