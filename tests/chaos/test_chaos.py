"""A short storm of kills; the long one is `make chaos`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.storm import SAVE_EVERY, differing_bits, storm
from tests.support.ranks import Ranks
from tests.support.tiny_run import tiny_recipe
from tests.support.training_runs import losses, newest, run, train

KILLS = 8
OVERRIDES = ["--deepspeed.config=zero1_fp32", "--max_steps=120", f"--checkpoint.save_every={SAVE_EVERY}"]


class Forked(Ranks):
    """Two ranks of the trainer, forked from a server that has imported what takes seconds."""

    def __init__(self, recipe: Path, run_dir: Path) -> None:
        super().__init__(train, 2, str(recipe), str(run_dir), OVERRIDES, timeout_s=200, process_group=False)
        self.__enter__()

    def finish(self) -> None:
        """Both ranks give exit code 0."""
        assert self.results() == [0, 0]


@pytest.mark.timeout(600)
def test_kills_at_random_instants_change_no_bit(tmp_path: Path) -> None:
    """Two ranks at ZeRO 1, killed while starting, training and saving: every bit of the last checkpoint (weights,
    moments, teacher, queue) and every logged loss is the undisturbed run's. Each run draws its own instants."""
    recipe = tiny_recipe(tmp_path)
    alone = run(tmp_path, "alone", ranks=2, overrides=OVERRIDES)
    struck = tmp_path / "struck"
    seed = int.from_bytes(os.urandom(4))
    print(f"storm of seed {seed}")
    result = storm(lambda: Forked(recipe, struck), struck, KILLS, seed, startup_s=2.0)
    print(f"hit {dict(result.hits)}")
    assert sum(result.hits.values()) == KILLS
    assert differing_bits(newest(struck), alone) == 0
    assert losses(struck) == losses(alone.parents[1])
