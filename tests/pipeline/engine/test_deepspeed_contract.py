"""What we take DeepSpeed's undocumented names for, each shown on small real engines of two gloo ranks.

A release of DeepSpeed that renames one or gives it another meaning fails here, not in a run. `tests/test_rooms.py`
holds `CONTRACT` complete: the names that the product uses are these.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.ranks import run_ranks

LAYOUTS = ("zero0_fp32", "zero0_bf16", "zero1_fp32", "zero1_bf16", "zero2_fp32", "zero2_bf16")
"""Files of ds_configs/."""
ZERO_OPTIMIZER = ("zero1_fp32", "zero2_fp32", "zero2_bf16")
"""Layouts whose optimizer is DeepSpeedZeroOptimizer; that of zero1_bf16 is BF16_Optimizer."""
PARTITIONED = (*ZERO_OPTIMIZER, "zero1_bf16")
OFFLOADED = "zero2_fp32 offloaded"
LANES, WORLD = 2, 2

Claim = Callable[[], None]
CONTRACT: dict[str, Claim] = {}
"""name -> what shows its meaning; called on every rank, in a folder that the ranks share."""


def shows(*names: str) -> Callable[[Claim], Claim]:
    """Enter a claim about these names into the contract."""

    def enter(claim: Claim) -> Claim:
        CONTRACT.update(dict.fromkeys(names, claim))
        return claim

    return enter


def engine_of(layout: str) -> Any:
    """An engine around two linear layers and torch's AdamW with two groups, the same on every rank."""
    import deepspeed

    from pipeline.engine.ds_config import find_ds_config

    config = json.loads(find_ds_config(layout.split()[0]).read_text())
    config |= {"train_batch_size": 4 * LANES * WORLD, "train_micro_batch_size_per_gpu": 4, "steps_per_print": 1000}
    config |= {"gradient_accumulation_steps": LANES, "gradient_clipping": 0.0}
    if layout == OFFLOADED:
        config["zero_optimization"] |= {"offload_optimizer": {"device": "cpu"}}
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    weights = [one for one in model.parameters() if one.ndim > 1]
    biases = [one for one in model.parameters() if one.ndim == 1]
    groups: list[dict[str, Any]] = [{"params": biases, "weight_decay": 0.0}, {"params": weights}]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)[0]


@cache
def new_engine(layout: str) -> Any:
    """One that several claims look at: none of them takes a step with it."""
    return engine_of(layout)


def batch_of(rank: int, lane: int) -> Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(10 * rank + lane))


def run_backward(engine: Any) -> float:
    """The backward of this rank's lanes; returns the norm of the mean gradient of all ranks' lanes, by hand in fp64."""
    exact = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)).double()
    exact.load_state_dict({name: tensor.double() for name, tensor in engine.module.state_dict().items()})
    for rank in range(WORLD):
        for lane in range(LANES):
            (exact(batch_of(rank, lane).double()).square().mean() / (WORLD * LANES)).backward()
    rank, dtype = torch.distributed.get_rank(), next(engine.module.parameters()).dtype
    for lane in range(LANES):
        engine.backward(engine(batch_of(rank, lane).to(dtype)).float().square().mean())
        if lane < LANES - 1:
            engine.step()
    return torch.stack([one.grad.norm() for one in exact.parameters() if one.grad is not None]).norm().item()


def norm_of(tensors: list[Tensor], *, of_all_ranks: bool) -> float:
    squares = torch.stack([one.double().square().sum() for one in tensors]).sum()
    if of_all_ranks:
        torch.distributed.all_reduce(squares)
    return squares.sqrt().item()


def same_norm(found: float, expected: float, layout: str) -> None:
    """fp32 sums in another order; bf16 has 8 bits of mantissa, and each gradient is rounded a few times."""
    assert found == pytest.approx(expected, rel=0.02 if "bf16" in layout else 1e-5), layout


def weights_of(engine: Any) -> list[Tensor]:
    return [one.detach().clone() for one in engine.module.parameters()]


def moved(engine: Any, before: list[Tensor]) -> bool:
    return any(not torch.equal(one, other) for one, other in zip(weights_of(engine), before, strict=True))


def flat_partitions(engine: Any) -> list[Tensor]:
    return [group["params"][0] for group in engine.optimizer.optimizer.param_groups]


@cache
def saved(layout: str) -> tuple[Any, Path]:
    """An engine after one step, and the folder of what DeepSpeed itself saved of it: for several claims."""
    engine = engine_of(layout)
    run_backward(engine)
    engine.step()
    engine.save_checkpoint(layout, tag="saved")
    torch.distributed.barrier()
    return engine, Path(layout, "saved")


# Engine


@shows("deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer")
def the_optimizer_of_stage_1_and_2() -> None:
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    for layout in LAYOUTS:
        assert isinstance(new_engine(layout).optimizer, DeepSpeedZeroOptimizer) == (layout in ZERO_OPTIMIZER), layout


@shows("deepspeed.runtime.bf16_optimizer.BF16_Optimizer")
def the_optimizer_of_stage_1_in_bf16_with_fp32_sums() -> None:
    from deepspeed.runtime.bf16_optimizer import BF16_Optimizer

    for layout in LAYOUTS:
        assert isinstance(new_engine(layout).optimizer, BF16_Optimizer) == (layout == "zero1_bf16"), layout


@shows("averaged_gradients")
def this_ranks_share_of_the_mean_gradient() -> None:
    for layout in ZERO_OPTIMIZER:
        engine = new_engine(layout)
        expected = run_backward(engine)
        groups = [engine.optimizer.averaged_gradients[number] for number in range(2)]
        pieces = [piece for group in groups for piece in group if piece is not None]
        same_norm(norm_of(pieces, of_all_ranks=True), expected, layout)


@shows("fp32_groups_gradients_flat")
def the_whole_mean_gradient_on_every_rank() -> None:
    engine = new_engine("zero1_bf16")
    expected = run_backward(engine)
    same_norm(norm_of(engine.optimizer.fp32_groups_gradients_flat, of_all_ranks=False), expected, "zero1_bf16")


@shows(
    "fp32_groups_flat_partition",
    "fp32_groups_gradient_flat_partition",
    "fp32_groups_gradients",
    "fp32_groups_has_gradients",
    "grad_acc_dtype",
    "immediate_grad_update",
    "has_moe_layers",
    "clip_grad",
    "dp_process_group",
    "update_lp_params",
    "_lazy_init_hp_params_optimizer_state",
)
def our_bf16_optimizer_takes_the_steps_of_deepspeeds() -> None:
    """The same bits in every weight and moment over four steps, one of them without the gradient of a parameter."""
    from pipeline.engine.fewer_operations import LeanBf16Optimizer, use_fewer_operations

    theirs, ours = engine_of("zero1_bf16"), engine_of("zero1_bf16")
    use_fewer_operations(ours)
    assert type(ours.optimizer) is LeanBf16Optimizer
    for step in range(4):
        for engine in (theirs, ours):
            engine.module[0].bias.requires_grad_(step != 2)
            run_backward(engine)
            engine.step()
        assert all(map(torch.equal, weights_of(theirs), weights_of(ours))), step
        for one, other in zip(flat_partitions(theirs), flat_partitions(ours), strict=True):
            assert torch.equal(one, other), step
            moments, same = theirs.basic_optimizer.state[one], ours.basic_optimizer.state[other]
            assert all(torch.equal(moments[name], same[name]) for name in ("step", "exp_avg", "exp_avg_sq")), step
    mapping = [one._hp_mapping for one in ours.module.parameters() if one._hp_mapping is not None]
    assert all({"exp_avg", "exp_avg_sq"} <= one.optim_fragment.keys() for one in mapping)  # what export reads


@shows("_reduce_non_expert_gradients")
def the_average_over_the_ranks_at_stage_0() -> None:
    """Its arguments are all gradients and a size; without it each rank keeps its own."""
    for layout in ("zero0_fp32", "zero0_bf16"):
        engine = engine_of(layout)
        calls: list[int] = []
        engine._reduce_non_expert_gradients = lambda grads, elements_per_buffer, calls=calls: calls.append(len(grads))
        run_backward(engine)
        assert calls == [4], layout
        own = engine.module[0].weight.grad.double()
        mean = own.clone()
        torch.distributed.all_reduce(mean)
        assert not torch.equal(own, mean / WORLD), layout


@shows("cpu_offload")
def whether_the_optimizer_state_is_offloaded() -> None:
    assert new_engine(OFFLOADED).optimizer.cpu_offload
    assert not any(new_engine(layout).optimizer.cpu_offload for layout in ZERO_OPTIMIZER)


@shows("_wait_for_offload_copies", "single_partition_of_fp32_groups")
def the_offloaded_share_of_the_mean_gradient() -> None:
    """The gradient of the flat partitions, once the copies to the host have ended."""
    engine = new_engine(OFFLOADED)
    expected = run_backward(engine)
    engine.optimizer._wait_for_offload_copies()
    pieces = [group.grad for group in engine.optimizer.single_partition_of_fp32_groups]
    same_norm(norm_of(pieces, of_all_ranks=True), expected, OFFLOADED)


@shows("basic_optimizer")
def the_optimizer_whose_step_moves_the_weights() -> None:
    """It is ours, and with a `step` of the instance's that does nothing, the engine's moves nothing; else it does."""
    for layout in LAYOUTS:
        engine = engine_of(layout)
        assert type(engine.basic_optimizer).__name__ == "AdamW", layout
        before = weights_of(engine)
        calls: list[int] = []
        run_backward(engine)
        ours = engine.basic_optimizer
        ours.step = lambda *_, calls=calls, **__: calls.append(1)
        engine.step()
        del ours.step
        assert calls and not moved(engine, before), layout
        run_backward(engine)
        engine.step()
        assert moved(engine, before), layout


@shows("skipped_steps", "global_steps", "global_samples")
def counts_that_can_be_set_and_are_saved() -> None:
    """A step counts one, and its global batch of samples; none of them is skipped."""
    for layout in LAYOUTS:
        engine, _ = saved(layout)
        assert (engine.skipped_steps, engine.global_steps, engine.global_samples) == (0, 1, 16), layout
        engine.skipped_steps, engine.global_steps, engine.global_samples = 7, 8, 90
        engine.save_checkpoint(layout, tag="counted")
        torch.distributed.barrier()
        engine.skipped_steps, engine.global_steps, engine.global_samples = 0, 0, 0
        engine.load_checkpoint(layout, tag="counted")
        assert (engine.skipped_steps, engine.global_steps, engine.global_samples) == (7, 8, 90), layout
        states = torch.load(Path(layout, "counted") / "mp_rank_00_model_states.pt", weights_only=False)
        assert states["skipped_steps"] == 7, layout


@shows("zero_optimization")
def whether_the_stage_is_above_0() -> None:
    assert {layout: new_engine(layout).zero_optimization() for layout in LAYOUTS} == {
        layout: layout in PARTITIONED for layout in LAYOUTS
    }


@shows("__compatible_ops__")
def no_all_reduce_is_compiled_after_our_start() -> None:
    import deepspeed
    from deepspeed.comm.torch import build_shm_op

    assert deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] is False
    assert build_shm_op() is None


@shows("deepspeed/comm/")
def where_its_collectives_are() -> None:
    import deepspeed

    assert f"deepspeed{os.sep}comm{os.sep}" in deepspeed.comm.all_reduce.__code__.co_filename


# Parameters in the optimizer's groups


def parameters_by_group(engine: Any) -> list[list[int]]:
    """Identities: biases, then weights, as `engine_of` gave them."""
    parameters = list(engine.module.parameters())
    return [[id(one) for one in parameters if one.ndim == ndim] for ndim in (1, 2)]


@shows("bit16_groups")
def the_modules_parameters_by_group_at_stage_1_and_2() -> None:
    for layout in ZERO_OPTIMIZER:
        engine = new_engine(layout)
        found = [sorted(map(id, group)) for group in engine.optimizer.bit16_groups]
        assert found == [sorted(group) for group in parameters_by_group(engine)], layout


@shows("bf16_groups")
def the_modules_parameters_by_group_in_bf16_with_fp32_sums() -> None:
    engine = new_engine("zero1_bf16")
    assert [list(map(id, group)) for group in engine.optimizer.bf16_groups] == parameters_by_group(engine)


@shows("fp16_groups")
def the_modules_parameters_by_group_at_stage_0_in_bf16() -> None:
    engine = new_engine("zero0_bf16")
    assert [list(map(id, group)) for group in engine.optimizer.fp16_groups] == parameters_by_group(engine)


@shows("fp32_groups")
def the_exact_weights_at_stage_0_in_bf16() -> None:
    """In the order of fp16_groups, which are their roundings; saved under the same name. At fp32 there are none."""
    engine, folder = saved("zero0_bf16")
    states = torch.load(folder / "mp_rank_00_model_states.pt", weights_only=False)["optimizer"]
    for number, rounded in enumerate(engine.optimizer.fp16_groups):
        for index, one in enumerate(rounded):
            exact = engine.optimizer.fp32_groups[number][index]
            assert exact.dtype == torch.float32 and torch.equal(exact.bfloat16(), one)
            assert torch.equal(states["fp32_groups"][number][index], exact)
    assert not hasattr(new_engine("zero0_fp32").optimizer, "fp32_groups")


@shows("optimizer.optimizer")
def the_optimizer_of_the_flat_partitions() -> None:
    """One flat fp32 partition a group, which the wrapped AdamW updates."""
    for layout in PARTITIONED:
        engine = new_engine(layout)
        assert engine.optimizer.optimizer is engine.basic_optimizer, layout
        for group in engine.optimizer.optimizer.param_groups:
            (partition,) = group["params"]
            assert partition.dtype == torch.float32 and partition.ndim == 1, layout


@shows("deepspeed.utils.safe_set_full_fp32_param")
def a_parameters_exact_weights_can_be_set() -> None:
    """Whole, to values that bf16 does not have, in the pieces of all ranks."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_set_full_fp32_param

    for layout in ("zero1_bf16", "zero2_bf16"):
        for parameter in engine_of(layout).module.parameters():
            exact = parameter.detach().float() * 1.001
            assert not torch.equal(exact.bfloat16().float(), exact), layout
            safe_set_full_fp32_param(parameter, exact)
            assert torch.equal(safe_get_full_fp32_param(parameter), exact), layout


@shows("_hp_mapping", "hp_fragment_address", "lp_fragment_address", "param_group_index")
def where_a_parameter_lies_in_this_ranks_partition() -> None:
    """The fp32 piece rounds to the parameter's piece; together the ranks hold every element once."""
    for layout in PARTITIONED:
        engine = new_engine(layout)
        partitions, found = flat_partitions(engine), torch.zeros((), dtype=torch.int64)
        for parameter in engine.module.parameters():
            mapping = parameter._hp_mapping
            if mapping is None:
                continue
            here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
            exact = partitions[mapping.param_group_index][here.start : here.start + here.numel]
            piece = parameter.detach().flatten()[there.start : there.start + there.numel]
            assert torch.equal(exact.to(piece.dtype), piece), layout
            found += there.numel
        torch.distributed.all_reduce(found)
        assert found == sum(one.numel() for one in engine.module.parameters()), layout


# Files


@shows("checkpoint_engine", "_copy_recovery_script")
def all_files_go_through_the_checkpoint_engine() -> None:
    """With ours in its place, and the script left out, a save writes nothing and a load reads nothing else."""
    from pipeline.checkpoints.deepspeed_files import MODEL_STATES, PARTITION
    from pipeline.checkpoints.saving import InMemoryCheckpointEngine

    rank = torch.distributed.get_rank()
    for layout in LAYOUTS:
        engine, held = saved(layout)[0], InMemoryCheckpointEngine()
        original, engine.checkpoint_engine = engine.checkpoint_engine, held
        engine._copy_recovery_script = lambda save_path: None
        engine.save_checkpoint("nowhere", tag="tag", save_latest=False)
        engine.checkpoint_engine = original
        del engine._copy_recovery_script
        assert not Path("nowhere").exists(), layout
        partitions = [match[1] for name in held.files if (match := PARTITION.fullmatch(name))]
        assert [int(number) for number in partitions] == ([rank] if layout in PARTITIONED else []), layout
        assert rank != 0 or MODEL_STATES in held.files, layout


@shows("deepspeed.runtime.checkpoint_engine.checkpoint_engine.CheckpointEngine")
def what_a_checkpoint_engine_has_to_have() -> None:
    """No more abstract methods than ours have."""
    from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine

    assert CheckpointEngine.__abstractmethods__ <= {"create", "makedirs", "save", "load", "commit"}


@shows(
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)
def the_classes_in_its_files() -> None:
    """No other class needs a permission of torch's restricted unpickler, and each of them does."""
    found = set()
    for layout in LAYOUTS:
        for file in saved(layout)[1].glob("*.pt"):
            found |= set(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    assert found == {
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
        "deepspeed.runtime.zero.config.ZeroStageEnum",
        "deepspeed.utils.tensor_fragment.fragment_address",
    }


@shows("param_slice_mappings", "base_optimizer_state", "optimizer_state_dict")
def what_a_ranks_file_holds() -> None:
    """The flat fp32 partitions, AdamW's state of each, and where each named weight's piece is in them."""
    from pipeline.checkpoints.deepspeed_files import MOMENTS, PARTITION

    rank = torch.distributed.get_rank()
    for layout in PARTITIONED:
        engine, folder = saved(layout)
        (file,) = [
            path for path in folder.iterdir() if (match := PARTITION.fullmatch(path.name)) and int(match[1]) == rank
        ]
        state = torch.load(file, weights_only=False)["optimizer_state_dict"]
        partitions = flat_partitions(engine)
        for number, partition in enumerate(state["single_partition_of_fp32_groups"]):
            assert torch.equal(partition, partitions[number][: partition.numel()]), layout
            moments = state["base_optimizer_state"]["state"][number]
            assert all(moments[name].shape == partitions[number].shape for name in MOMENTS), layout
        named = dict(engine.module.named_parameters())
        for number, fragments in enumerate(state["param_slice_mappings"]):
            for name, fragment in fragments.items():
                mapping = named[name]._hp_mapping
                assert mapping.param_group_index == number, layout
                address = mapping.hp_fragment_address
                assert (fragment.start, fragment.numel) == (address.start, address.numel), layout


# The test


def hold_all(_rank: int, _world: int, folder: str) -> dict[str, str]:
    """Every claim on this rank; returns the tracebacks of those that fail, by claim."""
    from pipeline.engine import distributed

    distributed.init()
    os.chdir(folder)
    failed = {}
    for claim in dict.fromkeys(CONTRACT.values()):
        try:
            claim()
        except Exception:
            failed[claim.__name__] = traceback.format_exc()
    return failed


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, str]]]:
    yield run_ranks(hold_all, WORLD, str(tmp_path_factory.mktemp("contract")), process_group=False, timeout_s=300)


@pytest.mark.parametrize("name", CONTRACT)
def test_the_name_means_what_our_code_takes_it_for(failed: list[dict[str, str]], name: str) -> None:
    for rank, of_rank in enumerate(failed):
        claim = CONTRACT[name].__name__
        assert claim not in of_rank, f"rank {rank}: {of_rank[claim]}"
