"""Recipes and flags: precedence, coercion, every mistake at once, and a dump that runs again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from albef.config import AlbefConfig
from albef.errors import ConfigError
from pipeline.config.recipe import parse_overrides, read_recipe, shipped_recipes
from pipeline.config.resolve import differences, load_config, recipe_keys, resolve
from pipeline.config.run_config import to_dict, to_yaml
from pipeline.engine.ds_config import resolve_ds_config, shipped_ds_configs


def mistakes(values: dict[str, Any], *flags: str) -> str:
    """The message and hint that a recipe and flags are refused with."""
    with pytest.raises(ConfigError) as refusal:
        resolve(values, parse_overrides(flags), name="r", other_flags=["--run-dir", "--resume"])
    return f"{refusal.value.message}\nhint: {refusal.value.hint}"


def test_precedence_is_defaults_preset_recipe_flags() -> None:
    """Each layer overrides the one before it, and nothing else."""
    assert resolve({}, name="r").optim.decay_groups == "fixed"
    paper = resolve({"preset": "paper"}, name="r")
    assert paper.optim.decay_groups == "official"
    assert paper.objective.teacher_dropout and paper.schedule.mode == "per_epoch"
    recipe: dict[str, Any] = {"preset": "paper", "optim": {"decay_groups": "fixed", "lr": 3e-4}}
    assert resolve(recipe, name="r").optim.decay_groups == "fixed"
    flagged = resolve(recipe, parse_overrides(["--optim.decay_groups", "official", "--optim.lr=5e-5"]), name="r")
    assert (flagged.optim.decay_groups, flagged.optim.lr) == ("official", 5e-5)
    assert resolve({"preset": "paper"}, {"preset": "fixed"}, name="r").optim.decay_groups == "fixed"


def test_a_size_sets_the_model_and_keys_change_it() -> None:
    """`size: tiny` with one width changed; without a size it is the paper's model."""
    assert resolve({}, name="r").model.shape == AlbefConfig.base()
    assert resolve({"model": {"size": "tiny", "image_size": 96}}, name="r").model.shape == AlbefConfig.tiny(
        image_size=96
    )
    assert resolve({"model": {"image_size": 96}}, {"model.size": "tiny"}, name="r").model.vision_depth == 4


@pytest.mark.parametrize("name", shipped_recipes())
@pytest.mark.parametrize("preset", ["fixed", "paper"])
def test_the_dump_runs_again_as_it_is(tmp_path: Path, name: str, preset: str) -> None:
    """Resolved, written, read: the same configuration, with every key in the file and no size left."""
    warm_up = ["--schedule.warmup_steps", "200"]  # per_epoch takes hundreds only
    run = load_config(name, ["--preset", preset, *warm_up])
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(run))
    assert load_config(path) == run
    assert load_config(path).hash() == run.hash() != dataclasses.replace(run, seed=run.seed + 1).hash()
    assert "size" not in read_recipe(path)["model"]


@pytest.mark.parametrize("name", shipped_recipes())
@pytest.mark.parametrize("ds", shipped_ds_configs())
def test_every_recipe_takes_every_deepspeed_file(name: str, ds: str) -> None:
    """On one rank, and on as many as it has lanes."""
    run = load_config(name, ["--deepspeed.config", ds])
    for world_size in (1, run.batch.num_lanes):
        assert resolve_ds_config(run, world_size).grad_accum_steps * world_size == run.batch.num_lanes


@pytest.mark.parametrize("name", ["albef_4m", "albef_14m"])
def test_the_paper_s_recipes_hold_the_paper_s_numbers(name: str) -> None:
    """From the original's Pretrain.yaml, field by field."""
    run = load_config(name)
    assert run.model.shape == AlbefConfig.base()
    assert (run.epochs, run.batch.global_batch_size, run.batch.micro_batch_size) == (30, 512, 64)
    assert (run.optim.lr, run.optim.weight_decay, run.optim.clip_grad_norm) == (1e-4, 0.02, None)
    assert (run.schedule.warmup_steps, run.schedule.warmup_lr, run.schedule.min_lr) == (2000, 1e-5, 1e-5)
    assert (run.objective.alpha, run.objective.momentum, run.objective.queue_size) == (0.4, 0.995, 65_536)
    assert (run.objective.mlm_probability, run.objective.max_text_tokens) == (0.15, 25)
    assert run.init.image and run.init.text
    assert len(run.data.manifests) == (4 if name == "albef_4m" else 5)


def test_numbers_are_numbers_however_they_are_written(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-4 as a text; quoted ones are texts too."""
    path = tmp_path / "r.yaml"
    path.write_text("optim:\n  lr: 1e-4\n  eps: '1E-9'\n  weight_decay: 1\nepochs: 3.0\n")
    run = load_config(path)
    assert (run.optim.lr, run.optim.eps, run.optim.weight_decay, run.epochs) == (1e-4, 1e-9, 1.0, 3)
    run = load_config(path, ["--objective.queue_size", "1e3", "--optim.lr=.5"])
    assert (run.objective.queue_size, run.optim.lr) == (1000, 0.5)


def test_flags_say_texts_lists_booleans_and_null() -> None:
    """As a shell user would type them."""
    run = resolve(
        {"optim": {"clip_grad_norm": 1.0}, "init": {"text": "bert"}},
        parse_overrides(
            ["--name", "1e5", "--objective.itc", "false", "--data.manifests", "a,b", "--optim.betas=[0.8, 0.9]"]
            + ["--optim.clip-grad-norm", "null", "--init.text=none"]
        ),
        name="r",
    )
    assert (run.name, run.objective.itc, run.data.manifests) == ("1e5", False, ("a", "b"))
    assert (run.optim.betas, run.optim.clip_grad_norm, run.init.text) == ((0.8, 0.9), None, None)


def test_a_recipe_without_a_name_takes_its_file_s(tmp_path: Path) -> None:
    """And the config.yaml of a run folder gets the name of the folder."""
    (tmp_path / "mine.yaml").write_text("seed: 1\n")
    assert load_config(tmp_path / "mine.yaml").name == "mine"
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    assert load_config(tmp_path).name == tmp_path.name


def test_every_mistake_is_reported_at_once_with_its_name_and_the_nearest() -> None:
    """Recipe and flags together: a wrong type, a wrong choice, unknown keys, a limit, an impossible pair."""
    text = mistakes(
        {
            "optim": {"lr": "fast", "betta": [0.9, 0.99]},
            "preset": "papre",
            "objective": {"alpha": 1.5, "itm": 3},
            "epochs": 0,
            "seeed": 1,
            "batch": {"global_batch_size": 100, "micro_batch_size": 48},
        },
        "--modle.size",
        "tiny",
        "--run-dri",
        "x",
        "--epochs",
    )
    for line in (
        "recipe r has 10 mistakes:",
        "optim.lr should be a number, is 'fast'",
        "optim.betta is not a key (did you mean optim.betas?)",
        "preset should be fixed | paper, is 'papre' (did you mean paper?)",
        "objective.alpha should be less than or equal to 1, is 1.5",
        "objective.itm should be true or false, is 3",
        "--epochs needs a value",
        "seeed is not a key (did you mean seed?)",
        "batch.global_batch_size 100 is not batch.micro_batch_size 48 x a whole number of lanes",
        "--modle.size is not a flag or a key (did you mean --model.size?)",
        "--run_dri is not a flag or a key (did you mean --run-dir?)",
    ):
        assert line in text, f"{line!r} is not in\n{text}"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"optim": 3}, "optim is a section, not a value"),
        ({"optim": {"lr": {"peak": 1}}}, "optim.lr should be a number"),
        ({"epochs": True}, "epochs should be a whole number, is True"),
        ({"epochs": 2.5}, "epochs should be a whole number, is 2.5"),
        ({"optim": {"lr": float("nan")}}, "optim.lr should be a finite number"),
        ({"model": {"image_size": 250}}, "image_size 250 is not a multiple of patch_size 16"),
        ({"objective": {"max_text_tokens": 600}}, "max_text_tokens 600 is more than model.max_text_positions 512"),
        ({"objective": {"itc": False, "itm": False, "mlm": False}}, "are all false"),
        ({"name": "a/b"}, "cannot name a folder"),
    ],
)
def test_single_mistakes(values: dict[str, Any], expected: str) -> None:
    """One each, with its dotted name or numbers in the message."""
    assert expected in mistakes(values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nseed: 2\n", "seed is written twice"),
        ("seed: [1\n", "is not valid YAML"),
        ("- 1\n", "does not hold `key: value` lines"),
        ("seed: \0\n", "is not valid YAML"),
    ],
)
def test_unreadable_recipes_are_refused(tmp_path: Path, text: str, expected: str) -> None:
    """With the file's name; never a YAML traceback."""
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=expected) as refusal:
        load_config(path)
    assert str(path) in refusal.value.message


def test_an_empty_section_is_no_mistake(tmp_path: Path) -> None:
    """`optim:` with every key commented out reads as the defaults; so does an empty file."""
    path = tmp_path / "r.yaml"
    path.write_text("optim:\n  # lr: 1e-3\n")
    assert load_config(path) == resolve({}, name="r")


def test_a_recipe_that_is_not_there_names_the_nearest() -> None:
    """And lists them all."""
    with pytest.raises(ConfigError, match="no recipe albef_41m") as refusal:
        load_config("albef_41m")
    assert "did you mean albef_4m?" in refusal.value.hint or "did you mean albef_14m?" in refusal.value.hint
    assert all(name in refusal.value.hint for name in shipped_recipes())


def test_every_key_has_its_docstring() -> None:
    """`--help` prints them."""
    assert [key.name for key in recipe_keys() if not key.doc] == []


def test_differences_are_listed_by_dotted_name() -> None:
    """Old and new value, nothing else."""
    old = resolve({}, name="r")
    new = resolve({"optim": {"lr": 1e-3}, "data": {"manifests": ["x"]}}, name="r")
    assert differences(old, new) == {"optim.lr": (1e-4, 1e-3), "data.manifests": ([], ["x"])}
    assert to_dict(old)["optim"]["betas"] == [0.9, 0.999]


def test_total_steps_come_from_epochs_or_are_given() -> None:
    """max_steps has the last word."""
    assert resolve({"epochs": 3}, name="r").total_steps(7) == 21
    assert resolve({"epochs": 3, "max_steps": 5}, name="r").total_steps(7) == 5


def test_a_recipe_names_its_task_and_has_its_keys(tmp_path: Path) -> None:
    """Without the key it is pretraining, as every recipe of before; the dump of either task runs again as it is."""
    assert resolve({}, name="r").task == "pretraining" and resolve({}, name="r").command == "pretrain"
    recipe = {"task": "snli-ve", "preset": "paper", "data": {"annotations": ["ve.json"]}, "init": {"model": "out"}}
    run = resolve(recipe, parse_overrides(["--validation.majority_after_steps=7"]), name="r")
    assert (run.command, run.data.annotations, run.init.model) == ("finetune snli-ve", ("ve.json",), "out")
    assert run.validation.majority_after_steps == 7 and run.optim.decay_groups == "official"
    assert run.objective.teacher_dropout and run.data.augment.randaugment_overflow, "the preset sets what the task has"
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(run))
    assert load_config(path) == run
    without_task = to_dict(resolve({}, name="r"))
    del without_task["task"]
    assert resolve(without_task, name="r") == resolve({}, name="r"), "the config.yaml of a run of before"


def test_a_key_of_another_task_and_a_task_that_is_none_are_named() -> None:
    """Each with the way out."""
    text = mistakes({"task": "snli-ve", "data": {"manifests": ["a"]}})
    assert "data.manifests is not a key of the task snli-ve\nhint: it is one of pretraining" in text
    assert "task should be pretraining | snli-ve" in mistakes({"task": "snli_ve"})
    assert "did you mean snli-ve?" in mistakes({}, "--task", "snlive")


def test_a_command_refuses_the_recipe_of_another_task(tmp_path: Path) -> None:
    """And names the command that trains it; so does a run folder that holds another task."""
    path = tmp_path / "mine.yaml"
    path.write_text("task: snli-ve\n")
    assert load_config(path, task="snli-ve").task == "snli-ve"
    with pytest.raises(ConfigError, match="mine is of the task snli-ve, not of pretraining") as refused:
        load_config(path, task="pretraining")
    assert f"`python -m pipeline finetune snli-ve {path}`" in refused.value.hint
    with pytest.raises(ConfigError, match="demo is of the task pretraining, not of snli-ve") as refused:
        load_config("demo", task="snli-ve")
    assert "`python -m pipeline pretrain demo`" in refused.value.hint
    changed = differences(resolve({}, name="r"), resolve({"task": "snli-ve"}, name="r"))
    assert changed["task"] == ("pretraining", "snli-ve")
