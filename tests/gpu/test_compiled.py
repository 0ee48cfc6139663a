"""`model.compile` on a GPU: a run of compiled steps has the losses of one that is not compiled, and few graphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.support.ranks import Ranks
from tests.support.shards import pair, write_manifest
from tests.support.tiny_run import TINY_MODEL, tiny_recipe
from tests.support.training_runs import WITHOUT_DROPOUT, losses, train

GRAPHS = 4
"""At most, of student and teacher: texts of a multiple of 8 tokens, and of 25."""
ONE_LAYER = TINY_MODEL | {"vision_depth": 1}
"""Of each kind: compiling is what takes the time."""
SHORT, LONG = "thing {}", "thing {} " + "in a row of other things " * 4


def train_compiled(
    rank: int, world_size: int, recipe: str, run_dir: str, overrides: Sequence[str], backend: str
) -> tuple[int, int, int]:
    """`train` with compiled lanes; returns the exit code, the number of graphs and of breaks."""
    from pipeline.config.resolve import load_config
    from pipeline.tasks.pretraining.maker import PRETRAINING
    from pipeline.tasks.pretraining.task import Pretraining
    from pipeline.train import train

    maker = dataclasses.replace(PRETRAINING, make=partial(Pretraining.of_run, backend=backend))
    code = train(load_config(Path(recipe), [*overrides, "--model.compile=true"]), Path(run_dir), maker)
    counters = torch._dynamo.utils.counters
    return code, counters["stats"]["unique_graphs"], counters["graph_break"].total()


@pytest.mark.parametrize(("ds_config", "tolerance"), [("zero1_fp32", 1e-4), ("zero1_bf16", 0.02)])
def test_compiled_steps_have_the_losses_of_others(
    tmp_path: Path, device: torch.device, ds_config: str, tolerance: float
) -> None:
    """Four steps of two lanes, short texts and long, without dropout, whose draws differ; code of torch's own compiler.

    fp32: sums in another order, hundreds of times 2**-24, and four steps of AdamW on them. bf16: a compiled kernel
    rounds once where single operations round after each; 2%, as beside the CPU. A break in a graph is an error.
    """
    backend = "inductor" if device.type == "cuda" else "eager"  # a rehearsal: the C++ compiler takes minutes
    texts = [(LONG if number % 4 == 0 else SHORT).format(number) for number in range(48)]
    write_manifest(tmp_path / "shards", [[pair(number, captions=[text]) for number, text in enumerate(texts)]])
    recipe, overrides = (
        str(tiny_recipe(tmp_path, model=ONE_LAYER)),
        [f"--deepspeed.config={ds_config}", *WITHOUT_DROPOUT],
    )
    plain_dir, compiled_dir = tmp_path / "plain", tmp_path / "compiled"
    with (
        Ranks(train, 1, recipe, str(plain_dir), overrides, process_group=False, timeout_s=400) as plain,
        Ranks(
            train_compiled, 1, recipe, str(compiled_dir), overrides, backend, process_group=False, timeout_s=400
        ) as compiled,
    ):
        assert plain.results() == [0]
        ((code, graphs, breaks),) = compiled.results()
    assert code == 0 and breaks == 0 and 2 <= graphs <= GRAPHS
    expected, got = losses(plain_dir), losses(compiled_dir)
    assert sorted(got) == sorted(expected) and len(expected) == 4
    for step, values in expected.items():
        assert got[step] == pytest.approx(values, rel=tolerance), f"step {step}"
