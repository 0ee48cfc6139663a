"""What `python -m demo.tasks` measures by itself, and how it runs the seeds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import albef
from albef.config import ObjectiveConfig
from albef.model import AlbefForPretraining
from demo.tasks.__main__ import StageFailedError, measure_matching, run_at_once
from demo.tasks.matching import matching_accuracy
from demo.tasks.table import LINES, as_table
from demo.world.__main__ import main as make_world
from tests.support.small_model import small_config


class Knows:
    """Answers by the pictures' truth, wrongly for some captions."""

    def __init__(self, rows: list[dict[str, str]], wrong: int) -> None:
        self.answers = [(row["label"] == "True") != (number < wrong) for number, row in enumerate(rows)]

    def match(self, images: list[Image.Image], texts: list[str]) -> torch.Tensor:
        assert len(images) == len(texts) and all(image.mode == "RGB" for image in images)
        part, self.answers = self.answers[: len(texts)], self.answers[len(texts) :]
        return torch.tensor([0.9 if answer else 0.1 for answer in part])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tasks")
    assert make_world([str(out / "data" / "world"), "--scenes", "160", "--held-out", "120"]) == 0
    return out


def test_matching_is_the_share_of_right_pairs(folder: Path) -> None:
    """Of 240 pairs in batches of 100, with 30 wrong answers; each pair is asked once."""
    world = folder / "data" / "world"
    rows = json.loads((world / "annotations" / "itm_test.json").read_text())
    model = Knows(rows, wrong=30)
    assert matching_accuracy(model, world, "test") == 100 * (240 - 30) / 240 and model.answers == []  # type: ignore[arg-type]


def test_matching_of_an_exported_model_is_measured_once(folder: Path) -> None:
    """An untrained model in a real folder; a second start reads nothing again."""
    torch.manual_seed(0)
    model = folder / "0" / "model"
    albef.Albef(AlbefForPretraining(small_config(), ObjectiveConfig())).save_pretrained(model)
    measure_matching(folder, model)
    found = json.loads((folder / "0" / "matching.json").read_text())
    assert 0 <= found["accuracy"] <= 100
    (model / "model.safetensors").unlink()
    measure_matching(folder, model)
    assert json.loads((folder / "0" / "matching.json").read_text()) == found


def test_seeds_run_some_at_a_time_and_a_failure_costs_no_other(tmp_path: Path) -> None:
    """Three commands, two at a time, the first fails: all have run, in the folder, with a core each."""
    script = (
        "import os, sys, time\n"
        "open(f'start{sys.argv[1]}', 'w').write(os.environ['OMP_NUM_THREADS'])\n"
        "end = time.monotonic() + 60\n"
        "while sys.argv[1] != '2' and not os.path.exists(f'start{1 - int(sys.argv[1])}'):\n"
        "    assert time.monotonic() < end and not os.path.exists('start2')\n"
        "    time.sleep(0.01)\n"
        "sys.exit(sys.argv[1] == '0')\n"
    )
    commands = [[sys.executable, "-c", script, str(number)] for number in range(3)]
    with pytest.raises(StageFailedError, match="1 of 3 seeds failed"):
        run_at_once(commands, tmp_path, 2)
    assert [(tmp_path / f"start{number}").read_text() for number in range(3)] == ["1"] * 3


def test_the_table_has_every_figure_beside_guessing(tmp_path: Path) -> None:
    """Means and spread of two seeds, worked out by hand."""
    for seed in (4, 7):
        for file in {line.file for line in LINES}:
            path = tmp_path / file.replace("SEED", str(seed))
            path.parent.mkdir(parents=True, exist_ok=True)
            keys = {line.key: 10.0 * seed for line in LINES if line.file == file}
            path.write_text(json.dumps(keys | {"num_images": 500, "majority": 16.7, "chance_pointing": 6.2}))
    text = as_table(tmp_path, [4, 7])
    assert "| VQA | 55.0 (40.0 to 70.0) | 16.7 |" in text and "| pointing game | 55.0 (40.0 to 70.0) | 6.2 |" in text
    assert text.count("| 0.2 |") == 4 and "| matching, balanced pairs | 55.0 (40.0 to 70.0) | 50.0 |" in text
    assert "| SNLI-VE | 40.0 | 16.7 |" in as_table(tmp_path, [4])
