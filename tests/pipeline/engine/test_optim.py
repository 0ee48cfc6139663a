"""Which parameters AdamW decays; the full-size official groups are in tests/parity/test_manifests_full.py."""

from __future__ import annotations

from itertools import chain, pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from albef.config import AlbefConfig
from albef.errors import ConfigError
from albef.model import AlbefForPretraining
from albef.weights.official import official_names
from pipeline.config.sections import OptimConfig
from pipeline.engine.optim import build_optimizer, parameter_groups, split_names
from tests.parity import goldens
from tests.support.ranks import run_ranks
from tests.support.tiny_run import tiny_recipe
from tests.support.training_runs import run, student


@pytest.fixture(scope="module")
def model() -> AlbefForPretraining:
    with torch.device("meta"):
        return AlbefForPretraining(AlbefConfig.tiny())


def test_official_groups_are_those_recorded_from_the_original() -> None:
    """By official name, in the order [no decay, decay] of the original's optimizer."""
    recording = goldens.load("pretrain_tiny")
    with torch.device("meta"):
        student = AlbefForPretraining(goldens.model_config(recording))
    names = official_names(dict(student.named_parameters()))
    ours = [[names[name] for name in group] for group in split_names(student.named_parameters(), "official")]
    recorded = [[name for name in group["names"] if name in names.values()] for group in recording.info["param_groups"]]
    assert [sorted(group) for group in ours] == [sorted(group) for group in recorded]
    assert [group["weight_decay"] for group in recording.info["param_groups"]] == [0.0, recording.info["run"]["wd"]]


def test_fixed_spares_what_official_should_not_have_decayed(model: AlbefForPretraining) -> None:
    """Temperature, class token and position embeddings leave the decayed group; nothing else moves."""
    official = set(split_names(model.named_parameters(), "official")[1])
    fixed = set(split_names(model.named_parameters(), "fixed")[1])
    spared = {name for name in official if "position" in name or "pos_embed" in name or "cls_token" in name}
    assert official - fixed == spared | {"temperature"} and len(spared) == 3
    assert fixed < official


def test_groups_hold_every_trainable_parameter_once(model: AlbefForPretraining) -> None:
    """The tied decoder weight is one parameter, and a frozen one is in no group."""
    model.itm_head.weight.requires_grad_(False)
    try:
        groups = parameter_groups(model, OptimConfig(weight_decay=0.3))
    finally:
        model.itm_head.weight.requires_grad_(True)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    wanted = {id(parameter) for parameter in model.parameters()} - {id(model.itm_head.weight)}
    assert len(held) == len(set(held)) and set(held) == wanted
    assert [group["weight_decay"] for group in groups] == [0.0, 0.3]


def test_the_optimizer_takes_the_recipe_s_numbers() -> None:
    """Every number of the recipe reaches torch's AdamW."""
    config = OptimConfig(lr=0.5, betas=(0.8, 0.7), eps=1e-3, weight_decay=0.25)
    optimizer = build_optimizer(torch.nn.Linear(2, 2), config, device=torch.device("cpu"))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.25]
    assert all(
        group["lr"] == 0.5 and group["betas"] == (0.8, 0.7) and group["eps"] == 1e-3 for group in optimizer.param_groups
    )


def test_a_beta_of_one_is_refused() -> None:
    """It would divide by zero in the first step's bias correction."""
    with pytest.raises(ConfigError, match=r"betas \[0.9, 1.0\]"):
        OptimConfig(betas=(0.9, 1.0))


def stepped(weights: Tensor, gradients: list[Tensor], cuts: list[int], *, settings: OptimConfig) -> list[Tensor]:
    """Weights and both moments after a step with each gradient, the flat tensor cut into parameters at `cuts`."""
    bounds = list(pairwise([0, *cuts, len(weights)]))
    kept = [torch.nn.Parameter(weights[start:end].clone()) for start, end in bounds]
    optimizer = build_optimizer(torch.nn.ParameterList(kept), settings, device=torch.device("cpu"))
    for gradient in gradients:
        for parameter, (start, end) in zip(kept, bounds, strict=True):
            parameter.grad = gradient[start:end].clone()
        optimizer.step()
    states = [optimizer.state[parameter] for parameter in kept]
    columns = [kept, [one["exp_avg"] for one in states], [one["exp_avg_sq"] for one in states]]
    return [torch.cat([tensor.detach().view(-1) for tensor in column]) for column in columns]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_cuts_of_zero_do_not_change_a_bit(threads: int) -> None:
    """One tensor, two halves, odd pieces, single elements, on one thread or two: the same weights and moments."""
    generator = torch.Generator().manual_seed(1)
    weights, *gradients = (torch.randn(4_103, generator=generator) * 10 ** (1 - n) for n in range(4))
    settings, before = OptimConfig(lr=1e-2), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = stepped(weights, gradients, [], settings=settings)
        for cuts in ([2_048], [1, 2, 3, 20], [1_000, 1_007, 2_500], [4_100]):
            for ours, theirs in zip(stepped(weights, gradients, cuts, settings=settings), whole, strict=True):
                assert torch.equal(ours, theirs), cuts
    finally:
        torch.set_num_threads(before)


def test_a_step_is_adamw_s() -> None:
    """Against the formula of Loshchilov and Hutter (2019), algorithm 2, written out in float64."""
    generator = torch.Generator().manual_seed(2)
    weights, *gradients = (torch.randn(37, generator=generator) for _ in range(4))
    settings = OptimConfig(lr=3e-3, betas=(0.8, 0.95), eps=1e-6)
    found, *moments = stepped(weights, gradients, [5, 21], settings=settings)
    exact, first, second = weights.double(), torch.zeros(37).double(), torch.zeros(37).double()
    for number, gradient in enumerate(gradients, start=1):
        first = 0.8 * first + 0.2 * gradient.double()
        second = 0.95 * second + 0.05 * gradient.double().square()
        exact = exact - 3e-3 * (first / (1 - 0.8**number)) / ((second / (1 - 0.95**number)).sqrt() + 1e-6)
    pairs = {"weights": (found, exact), "first": (moments[0], first), "second": (moments[1], second)}
    for name, (ours, expected) in pairs.items():
        assert torch.allclose(ours.double(), expected, rtol=1e-6, atol=1e-7), name  # a few roundings of fp32


def test_the_temperature_may_move_slower_than_the_weights(tmp_path: Path) -> None:
    """A hundredth of the rate, in a group of its own: on one rank and two, at stages 1 and 2, the same bits."""
    steps, slow = "--max_steps=3", "--optim.temperature_lr_share=0.01"
    one = student(run(tmp_path, "one", overrides=[steps, slow, "--deepspeed.config=zero1_fp32"]))
    two = student(run(tmp_path, "two", ranks=2, overrides=[steps, slow, "--deepspeed.config=zero2_fp32"]))
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())
    full = student(run(tmp_path, "full", overrides=[steps]))
    moved = [abs(weights["temperature"].item() - 0.07) for weights in (one, full)]
    # AdamW's first steps are of the rate's size for any gradient
    assert 0 < moved[0] < 0.03 * moved[1]


@pytest.mark.parametrize("ds_config", ["zero0_bf16", "zero1_bf16", "zero2_bf16"])
def test_bf16_training_starts_from_the_fp32_weights(ds_config: str, tmp_path: Path) -> None:
    """On two ranks: what the optimizer steps has every bit of the model as it was made, the forward its rounding."""
    recipe = str(tiny_recipe(tmp_path))
    for exact, rounded, lost in run_ranks(_weights_at_the_start, 2, recipe, ds_config, process_group=False):
        assert exact == rounded == [] and lost > 0


def _weights_at_the_start(
    _rank: int, _world_size: int, recipe: str, ds_config: str
) -> tuple[list[str], list[str], int]:
    """Names of weights that differ from those before the engine, exactly and rounded; how many bf16 does not have."""
    from deepspeed.utils import safe_get_full_fp32_param

    from pipeline.config.resolve import load_config
    from pipeline.engine import distributed
    from pipeline.engine.ds_config import resolve_ds_config
    from pipeline.tasks.pretraining.maker import PRETRAINING
    from pipeline.train import start_engine

    run, world = load_config(recipe, [f"--deepspeed.config={ds_config}"]), distributed.init()
    ds = resolve_ds_config(run, world.size)
    task = PRETRAINING.make(run, world, ds.compute_dtype)
    before = {name: weight.detach().clone() for name, weight in task.model.named_parameters()}
    engine = start_engine(run, ds, task, world)
    named = dict(engine.module.named_parameters())
    if hasattr(engine.optimizer, "fp32_groups"):  # stage 0
        pairs = zip(chain(*engine.optimizer.fp16_groups), chain(*engine.optimizer.fp32_groups), strict=True)
        twins = {id(rounded): exact for rounded, exact in pairs}
        exact = {name: twins[id(weight)] for name, weight in named.items()}
    else:
        exact = {name: safe_get_full_fp32_param(weight) for name, weight in named.items()}
    distributed.shutdown()
    return (
        [name for name, weight in before.items() if not torch.equal(exact[name], weight)],
        [name for name, weight in before.items() if not torch.equal(named[name], weight.bfloat16())],
        sum(not torch.equal(weight, weight.bfloat16().float()) for weight in before.values()),
    )
