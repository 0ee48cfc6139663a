"""The image encoder that ALBEF starts from on the generated world."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from albef.config import AlbefConfig
from albef.model import AlbefForPretraining
from albef.weights.initialise import initialise
from demo.tasks.image_encoder import SHAPE, Things, main, named, train
from demo.world.__main__ import main as make_world
from pipeline.config.resolve import load_config

SMALL = AlbefConfig(image_size=48, patch_size=16, vision_width=32, vision_depth=2, vision_heads=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("image_encoder") / "world"
    assert make_world([str(out), "--scenes", "160", "--held-out", "120"]) == 0
    return out


def test_it_learns_to_name_things(world: Path) -> None:
    """By heart, of 24 pictures; before training it names one thing of the kinds by chance."""
    things = Things(world, "train", SMALL.image_size)
    things.images, things.shown = things.images[:24], things.shown[:24]
    before = named(*train(things, SMALL, steps=1, seed=0), things)
    after = named(*train(things, SMALL, steps=300, seed=0), things)
    assert before < 0.15 and after > 0.5, (before, after)


def test_what_is_shown_is_the_scenes_(world: Path) -> None:
    """Of every picture, with held-out pairs of colour and shape in none."""
    things = Things(world, "train", SMALL.image_size)
    scenes = [json.loads(line) for line in (world / "scenes.jsonl").read_text().splitlines()]
    scenes = [scene for scene in scenes if scene["image"].startswith("train/")]
    assert len(things) == len(scenes) == 160 and len(things.kinds) <= 56
    for row, scene in zip(things.shown, scenes, strict=True):
        shown = {kind for kind, there in zip(things.kinds, row.tolist(), strict=True) if there}
        assert shown == {(thing["color"], thing["shape"]) for thing in scene["things"]}


def test_the_recipe_starts_from_its_file(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command writes a state dict that pretraining loads; two runs write the same weights."""
    for name in ("one.pth", "two.pth"):
        assert main([str(world), str(tmp_path / name), "--steps", "2"]) == 0
        done = json.loads(capsys.readouterr().out)
        assert done["pictures"] == 160 and 0 <= done["named"] <= 1
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pth", "two.pth"))
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())
    run = load_config("world", [f"--init.image={tmp_path / 'one.pth'}"])
    image = {
        name: value for name, value in run.model.shape.to_dict().items() if name.startswith(("image", "patch", "vis"))
    }
    assert image == {name: SHAPE.to_dict()[name] for name in image}
    model = AlbefForPretraining(run.model.shape, run.objective)
    initialise(model, run.init)
    assert all(torch.equal(model.image_encoder.state_dict()[name], weight) for name, weight in one.items())
