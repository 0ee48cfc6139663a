"""The commands of a row and a seed in their order, where each leaves its result, and what runs them."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from albef.errors import ConfigError
from base import atomic_file
from base.child_process import run_child
from pipeline.ablation.plan import SCORED, TASKS, Planned
from pipeline.ablation.rows import ROWS, Row
from pipeline.config.resolve import differences, load_config
from pipeline.config.run_config import to_yaml
from pipeline.run.retrying_file import unwritable
from samples.json_text import parse_json
from samples.plain_file import read_plain
from samples.quote import quote

MAY_CHANGE = ("checkpoint.", "logging.", "watch.", "data.num_workers", "data.prefetch", "data.timeout_s", "name")
"""Keys, or beginnings of keys, that may change while an ablation is under way: they change no result."""
MAX_BYTES = 1 << 20
MAX_SHOWN = 5
"""Changes that one message lists."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of a row and a seed."""

    title: str
    """`pretrain`, `finetune vqa`, ..."""
    words: tuple[str, ...]
    """What follows `python -m pipeline`."""
    on_all_ranks: bool
    """Whether the launcher starts it; else it is one process."""
    result: Path
    """It is done when this exists, which is written whole. Of training, the exported model."""

    def line(self, launch: str | None, *, python: str = sys.executable) -> list[str]:
        """The command.

        Args:
            launch: words that start Python on all ranks, such as `srun python`; None starts one.
        """
        start = shlex.split(launch) if launch is not None and self.on_all_ranks else [python]
        return [*start, "-m", "pipeline", *self.words]


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A plan and the folder of its runs: ROW/SEED/ has a run folder, a model and a result for each task."""

    planned: Planned
    folder: Path

    def place(self, row: str, seed: int) -> Path:
        """The folder of a row and a seed."""
        return self.folder / row / str(seed)

    def recipe(self, name: str) -> Path:
        """The resolved recipe of pretraining or of a task."""
        return self.folder / "recipes" / f"{name}.yaml"

    def run_folder(self, row: Row, seed: int, name: str) -> Path:
        """The run folder of pretraining or of a task."""
        return self.place(row.pretraining if name == "pretraining" else row.name, seed) / name

    def result(self, row: Row, seed: int, name: str) -> Path:
        """The file with a task's evaluation; without training it is that of the row that pretrained the model."""
        return self.place(row.pretraining if name == "zero_shot" else row.name, seed) / f"{name}.json"

    def model(self, row: Row, seed: int, name: str) -> Path:
        """The exported model of pretraining or of a task."""
        return self.run_folder(row, seed, name).with_name("model" if name == "pretraining" else f"{name}_model")

    def failure(self, row: str, seed: int) -> Path:
        """Exists while the last try of a row and a seed failed."""
        return self.place(row, seed) / "failed.json"

    def commands(self, row: Row, seed: int) -> Iterator[Command]:
        """Pretraining, its evaluation, then each task. Rows that share a pretraining have the same commands for it."""
        plan = self.planned.plan
        pretrained = self.model(row, seed, "pretraining")
        switches = [f"--objective.{name}={_word(value)}" for name, value in row.switches.items()]
        yield from self._trained(["pretrain"], "pretraining", row, seed, switches)
        if "zero_shot" in plan.evaluated:
            yield self._evaluation("retrieval", "zero_shot", row, seed, pretrained)
        for name in plan.trained:
            after = name == "nlvr2" and "text_assignment" in plan.trained
            start = self.model(row, seed, "text_assignment") if after else pretrained
            flags = [f"--init.model={start}"]
            if name != "text_assignment":  # it has no teacher
                flags.append(f"--objective.distill={_word(row.distills_downstream)}")
            yield from self._trained(["finetune", TASKS[name]], name, row, seed, flags)
            if name in SCORED:
                yield self._evaluation(SCORED[name], name, row, seed, self.model(row, seed, name))

    def _trained(self, command: list[str], name: str, row: Row, seed: int, flags: list[str]) -> Iterator[Command]:
        """Training and export of its model."""
        run_folder, model = self.run_folder(row, seed, name), self.model(row, seed, name)
        yield Command(
            title=" ".join(command),
            words=(*command, str(self.recipe(name)), f"--run-dir={run_folder}", f"--seed={seed}", *flags),
            on_all_ranks=True,
            result=model / "config.json",
        )
        yield Command(
            title=f"export {name}",
            words=("export", str(run_folder), "--out", str(model)),
            on_all_ranks=False,
            result=model / "config.json",
        )

    def _evaluation(self, task: str, name: str, row: Row, seed: int, model: Path) -> Command:
        return Command(
            title=f"evaluate {name}",
            words=(
                *("evaluate", task, "--model", str(model), *self.evaluation_flags(name)),
                *("--out", str(self.result(row, seed, name))),
            ),
            on_all_ranks=True,
            result=self.result(row, seed, name),
        )

    def evaluation_flags(self, name: str) -> list[str]:
        """What a task's models are evaluated on, as flags of `evaluate`."""
        section = getattr(self.planned.plan, name)
        keys = ("annotations", "images", "answers", "captions", "k_test", "dets", "by", "block")
        flags = {key: getattr(section, key, None) for key in keys}
        return [f"--{key.replace('_', '-')}={value}" for key, value in flags.items() if value is not None]


def _word(value: bool) -> str:
    return str(value).lower()


STOPPED = (75, 130, -15, -10, -2)
"""Exit codes after a request to stop: saved, interrupted, or ended by SIGTERM, SIGUSR1 or SIGINT while starting up."""


def run_command(command: Command, launch: str | None) -> int:
    """Run a command to its end; its exit code."""
    return run_child(command.line(launch))


def open_folder(ablation: Ablation) -> None:
    """Create the folder and write the recipes, or compare them with those that are there.

    Raises: ConfigError when the folder holds runs of other recipes or another evaluation, or cannot be written.
    """
    evaluation = {name: ablation.evaluation_flags(name) for name in ablation.planned.plan.evaluated}
    record = ablation.folder / "recipes" / "evaluation.json"
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        before = parse_json(read_plain(record, MAX_BYTES)) if record.exists() else {}
        if any((ablation.folder / row).exists() for row in ROWS):
            _check_unchanged(ablation, before, evaluation)
        for name, run in ablation.planned.recipes.items():
            atomic_file.write_text(ablation.recipe(name), to_yaml(run), temporary=_own(ablation.recipe(name)))
        atomic_file.write_text(record, json.dumps(before | evaluation, indent=2) + "\n", temporary=_own(record))
    except OSError as error:
        raise unwritable(ablation.folder, error) from error
    except ValueError as error:
        raise ConfigError(f"{record} is damaged: {quote(error)}", "give another --run-dir") from None


def _check_unchanged(ablation: Ablation, before: dict[str, list[str]], evaluation: dict[str, list[str]]) -> None:
    """Runs of one table have one recipe. A task, a row or a seed may be added at any time."""
    changed = []
    for name, run in ablation.planned.recipes.items():
        if ablation.recipe(name).exists():
            for key, (old, new) in differences(load_config(ablation.recipe(name)), run).items():
                if not key.startswith(MAY_CHANGE):
                    changed.append(f"{key} of {name} was {quote(old)}, is {quote(new)}")
    for name, flags in evaluation.items():
        if name in before and before[name] != flags:
            changed.append(f"{name} was evaluated with {quote(before[name])}, is with {quote(flags)}")
    if changed:
        raise ConfigError(
            f"{ablation.folder} holds runs of another plan: {'; '.join(changed[:MAX_SHOWN])}",
            "give another --run-dir, or remove that folder to start from the beginning",
        )


def _own(path: Path) -> Path:
    """A temporary file of this process: several may work on the rows of one folder."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
