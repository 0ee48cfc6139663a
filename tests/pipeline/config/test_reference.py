"""docs/recipes.md, the reference of every recipe key."""

from __future__ import annotations

import re
from pathlib import Path

from albef.config import AlbefConfig
from pipeline.config import reference
from pipeline.config.resolve import PRESETS, recipe_keys
from pipeline.config.run_config import RUNS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "recipes.md"


def test_the_page_agrees_with_the_code() -> None:
    """A key, a default or a docstring that changes must change the page: `make docs` writes it."""
    assert PAGE.read_text() == reference.page(), "run `make docs`"


def test_every_key_has_a_row_with_its_meaning() -> None:
    """Each key that a recipe of any task can set, with values, default and meaning, none of them empty."""
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \| `(.*?)` \| (\S.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert {name for name, *_ in rows} == {key.name for task in RUNS for key in recipe_keys(task)}


def test_a_section_that_differs_is_listed_with_its_tasks() -> None:
    """Shared sections once, `data` once for shards and once for annotation files; one without keys not at all."""
    heads = re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE)
    assert heads.count("`optim`") == heads.count("`data.augment`") == 1
    assert "`data` of pretraining, nlvr2-pretrain" in heads and any(
        head.startswith("`data` of snli-ve") for head in heads
    )
    assert not [head for head in heads if head.startswith("`validation`") and "nlvr2-pretrain" in head]


def test_limits_are_listed() -> None:
    """Limits of pydantic's types, those behind `or null`, and those that albef itself checks."""
    text = PAGE.read_text()
    assert "\n| `max_steps` | a whole number or null, above 0 |" in text
    assert "\n| `data.augment.crop_scale_min` | a number or null, above 0, at most 1 |" in text
    assert "\n| `model.image_size` | a whole number, 1 to 16,384 |" in text


def test_sizes_and_presets_are_listed() -> None:
    """What `model.size: tiny` and `preset: paper` change."""
    text = PAGE.read_text()
    assert f"| `model.vision_width` | `768` | `{AlbefConfig.tiny().vision_width}` |" in text
    assert all(f"| `paper` | `{name}` |" in text for name in PRESETS["paper"])
