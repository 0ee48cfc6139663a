"""Recipes as people and editors write them: what a key means by its type, and files that are none, or are bombs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from albef.errors import ConfigError
from pipeline.config.resolve import load_config
from pipeline.config.run_config import PretrainingRun, to_yaml

LAUGHS = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'lol'}]" for n in range(10))


def from_text(tmp_path: Path, text: str | bytes, *flags: str) -> PretrainingRun:
    path = tmp_path / "r.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_config(path, flags)


TEXTS = [
    "2026-11-27",
    "2026-11-27 10:30:00",
    "no",
    "on",
    "Yes",
    "1e3",
    "0x10",
    "012",
    "1:30",
    ".5",
    "1_000",
    "12",
    "NaN",
]
"""What YAML 1.1 takes for a date, a boolean or a number."""


@pytest.mark.parametrize("text", TEXTS)
def test_a_key_whose_type_is_a_text_takes_what_is_written(tmp_path: Path, text: str) -> None:
    """In the recipe and as a flag, alone and in a list; and the dump of it runs again."""
    run = from_text(tmp_path, f"name: {text}\ndata:\n  manifests: [{text}, other]\n  cache_dir: {text}\n")
    assert (run.name, run.data.manifests, run.data.cache_dir) == (text, (text, "other"), text)
    flags = [f"--name={text}", "--data.manifests", f"{text},other", "--data.cache_dir", text]
    assert from_text(tmp_path, "", *flags) == run == from_text(tmp_path, to_yaml(run))
    assert (
        from_text(tmp_path, "", "--data.manifests", f"[{text}, other]").data
        == from_text(tmp_path, "", *flags[1:3]).data
    )


@pytest.mark.parametrize("text", ["~", "null", "Null", "", "# nothing"])
def test_null_is_null_where_a_key_takes_it_and_a_mistake_where_not(tmp_path: Path, text: str) -> None:
    """`cache_dir: ~` sets none; `name: ~` is no name."""
    assert from_text(tmp_path, f"data:\n  cache_dir: {text}\n").data.cache_dir is None
    with pytest.raises(ConfigError, match="name should be a text"):
        from_text(tmp_path, f"name: {text}\n")


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-4", 1e-4), ("1E-4", 1e-4), ("1.", 1.0), (".5", 0.5), ("+1_0.5", 10.5), ("'2e-5'", 2e-5), ("3", 3.0)],
)
def test_a_number_is_one_however_it_is_written(tmp_path: Path, text: str, number: float) -> None:
    assert from_text(tmp_path, f"optim: {{lr: {text}}}\n").optim.lr == number


@pytest.mark.parametrize(
    ("text", "number"), [("1_000", 1000), ("012", 12), ("0x10", 16), ("1e3", 1000), ("3.0", 3), ("'7'", 7)]
)
def test_a_whole_number_is_decimal(tmp_path: Path, text: str, number: int) -> None:
    """`012` is twelve, as it looks, and not ten."""
    assert (
        from_text(tmp_path, f"seed: {text}\n").seed == number == from_text(tmp_path, "", "--seed", text.strip("'")).seed
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1:30", "seed should be a whole number, is '1:30'"),
        ("seed: 2026-11-27", "seed should be a whole number, is '2026-11-27'"),
        ("seed: yes", "seed should be a whole number, is yes"),
        ("seed: 1000000000000000000000", "seed should be a whole number of 64 bits"),
        (f"seed: {'9' * 5000}", "seed should be "),
        ("optim: {lr: nan}", "optim.lr should be greater than 0, is 'nan'"),
        ("optim: {lr: .inf}", "optim.lr should be a finite number, is .inf"),
        ("optim: {lr: 1e999}", "optim.lr should be a finite number"),
        ("optim: {lr: on}", "optim.lr should be a number, is on"),
        ("optim: {betas: [true, 0.9]}", "optim.betas should be list of 2 a number"),
        ("optim: {betas: [.nan, 0.9]}", "optim.betas should be a finite number"),
        ("optim: {1: 2}", "optim.1 is not a key"),
        ("no: 1", "no is not a key"),
        ("? [a, b]\n: 1", "a key that is no text"),
        ("optim: {lr: 1}\noptim.lr: 2", "optim.lr is written twice"),
        ("seed: 1\n\nepochs: 2\nseed: 2", "seed is written twice, in line 1 and in line 4"),
        ("seed: !!python/object/apply:os.system [true]", "could not determine a constructor for the tag"),
        ("seed: !!timestamp 2026-11-27", "could not determine a constructor for the tag"),
        ("seed:\t1\n\tx: 1", "(line 1, column 6)"),
        ("- 1", "does not hold"),
        ("just words", "does not hold"),
        ("a: 1\n---\nb: 2", "is not valid YAML"),
        ("name: 'a\\n/b'", "cannot name a folder"),
        ('name: "a\\nb"', "cannot name a folder"),
        ('name: "a\\u202eb"', "cannot name a folder"),
        ("name: " + "x" * 101, "cannot name a folder"),
        ("batch: {global_batch_size: 10000000000}", "global_batch_size should be less than or equal to 2147483647"),
        ("batch: {global_batch_size: 2147483647, micro_batch_size: 64}", "x a whole number of lanes"),
        ("[" * 5000, "nested more than 32 deep"),
        ("a: {" * 5000, "nested more than 32 deep"),
        ("- " * 2000 + "x", "nested more than 32 deep"),
        (LAUGHS, "with its aliases written out"),
        ("&a [*a]", "an alias of what it stands in"),
        ("seed: *nowhere", "found undefined alias"),
        ("\n".join(f"key{n}: 1" for n in range(5_000)), "has 5000 mistakes"),
        ("\n".join(f"key{n}: 1" for n in range(20_000)), "with its aliases written out"),
        ("x" * (1 << 21), "longer than 1,048,576 bytes"),
        ("k" * 100_000 + ": 1", "is not "),
        ("seed: " + "v" * 50_000, "seed should be a whole number, is 'vvv"),
        (b"seed: \xff\xff", "no text in UTF-8"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_refused_within_seconds(tmp_path: Path, text: str | bytes, message: str) -> None:
    """By name, in lines that show little of it, however much there is."""
    began = time.monotonic()
    with pytest.raises(ConfigError) as refusal:
        from_text(tmp_path, text)
    assert message in refusal.value.message
    assert max(map(len, refusal.value.message.replace(str(tmp_path), "").splitlines())) < 400
    assert len(refusal.value.message) < 5_000 and time.monotonic() - began < 10


@pytest.mark.parametrize(
    "data",
    ["\ufeffseed: 7\n".encode(), "seed: 7\r\n".encode("utf-16"), b"\xfe\xff" + "seed: 7\n".encode("utf-16-be")],
    ids=["UTF-8 with a mark", "UTF-16", "UTF-16, big end first"],
)
def test_editors_of_windows_write_recipes_too(tmp_path: Path, data: bytes) -> None:
    assert from_text(tmp_path, data).seed == 7


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    """What YAML is used for in recipes: a section that another one repeats."""
    run = from_text(tmp_path, "optim: &o {lr: 1e-3, eps: &e 1e-7}\nschedule: {min_lr: *e}\n")
    assert (run.optim.lr, run.schedule.min_lr) == (1e-3, 1e-7)
    run = from_text(tmp_path, "optim:\n  <<: {lr: 1e-3, eps: 1e-7}\n  lr: 2e-3\n")
    assert (run.optim.lr, run.optim.eps) == (2e-3, 1e-7)


def test_what_is_no_file_is_no_recipe(tmp_path: Path) -> None:
    """A folder without a config.yaml, a named pipe, a file that may not be read, a name that is too long."""
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "config.yaml").mkdir()
    for name in ("pipe.yaml", "binary.yaml", "inner", "inner/config.yaml", "x" * 5000, "a\0b", ""):
        with pytest.raises(ConfigError) as refusal:
            load_config(f"{tmp_path}/{name}")
        assert len(refusal.value.message) < 300, name


@pytest.mark.parametrize("text", ["*.parquet", "@x", "{a}", "a: b", "%x", "[x", "&a", "!x", "'", "- a"])
def test_a_flag_for_a_list_of_paths_takes_paths(tmp_path: Path, text: str) -> None:
    """What a shell passes on is a path, also where YAML would read another type."""
    if text == "[x":
        with pytest.raises(ConfigError, match=r"data\.manifests should be"):
            from_text(tmp_path, "", "--data.manifests", text)
    else:
        assert from_text(tmp_path, "", "--data.manifests", text).data.manifests == (text,)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", "[" * 5000], "seed should be a whole number"),
        (["--seed", "x" * 100_000], "seed should be a whole number"),
        (["--optim.betas", "0.9,[" + "[" * 5000], "optim.betas should be"),
        ([f"--{'x' * 100_000}", "1"], "is not a flag or a key"),
        (["--name", "../x"], "cannot name a folder"),
    ],
)
def test_a_wrong_flag_is_refused_within_seconds(tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        from_text(tmp_path, "", *flags)
    assert len(refusal.value.message) < 400


def test_aliases_cost_what_they_stand_for() -> None:
    """Both bounds hold together: lists of lists by aliases, each of them small, are as deep as they are written out."""
    from pipeline.config.recipe_yaml import load_yaml

    chain: list[Any] = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 100))]
    with pytest.raises(Exception, match="nested too deep"):
        load_yaml("\n".join(chain))
