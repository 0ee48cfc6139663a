"""The DeepSpeed JSON: what is refused, what is resolved, and that DeepSpeed trains with the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from albef.errors import ConfigError
from pipeline.config.resolve import resolve
from pipeline.config.run_config import RunConfig
from pipeline.config.sections import BatchConfig
from pipeline.data.sampling.lanes import lanes_of_rank
from pipeline.engine.ds_config import KNOWN_KEYS, KNOWN_ZERO_KEYS, find_ds_config, resolve_ds_config, shipped_ds_configs
from tests.support.ranks import run_ranks

FLAT = ("zero0_fp32", "zero1_fp32", "zero2_fp32")


def recipe(ds: str | Path, **batch: int) -> RunConfig:
    sizes = {"global_batch_size": 16, "micro_batch_size": 4} | batch
    return resolve({"deepspeed": {"config": str(ds)}, "batch": sizes, "optim": {"clip_grad_norm": 0.5}}, name="r")


def written(folder: Path, **changes: Any) -> Path:
    """zero1_fp32 with changes, in a separate file."""
    values = json.loads(find_ds_config("zero1_fp32").read_text()) | changes
    path = folder / "mine.json"
    path.write_text(json.dumps(values))
    return path


def test_the_six_files_are_there() -> None:
    """ZeRO 0, 1, 2 in both precisions."""
    assert shipped_ds_configs() == [f"zero{stage}_{kind}" for stage in (0, 1, 2) for kind in ("bf16", "fp32")]


@pytest.mark.parametrize("name", shipped_ds_configs())
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_auto_becomes_the_recipe_s_numbers(name: str, world_size: int) -> None:
    """Every number comes from the recipe and the world; stage and precision are those in the file's name."""
    ds = resolve_ds_config(recipe(name), world_size)
    assert ds.config["train_batch_size"] == 16
    assert ds.config["train_micro_batch_size_per_gpu"] == 4
    assert ds.config["gradient_accumulation_steps"] == ds.grad_accum_steps == 4 // world_size
    assert ds.config["gradient_clipping"] == 0.0  # the pipeline clips
    assert ds.config.get("bf16", {"check_grad_overflow": False})["check_grad_overflow"] is False  # it checks, too
    # and takes the norm; DeepSpeed accepts the key at stages 1 and 2, but not in its BF16_Optimizer
    norm = ds.config["zero_optimization"].get("compute_grad_norm", True)
    assert norm is (name in ("zero0_fp32", "zero0_bf16", "zero1_bf16"))
    assert '"auto"' not in json.dumps(ds.config)
    assert name == f"zero{ds.stage}_{ds.precision}"
    assert ds.compute_dtype == (torch.bfloat16 if name.endswith("bf16") else torch.float32)


def test_a_misspelt_key_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    """DeepSpeed would silently ignore it."""
    path = written(tmp_path, gradient_cliping=1.0, zero_optimization={"stage": 1, "overlap_com": True})
    with pytest.raises(ConfigError, match=r"cannot use gradient_cliping, zero_optimization.overlap_com") as refusal:
        resolve_ds_config(recipe(path), 1)
    assert "did you mean gradient_clipping?" in refusal.value.hint
    assert "did you mean zero_optimization.overlap_comm?" in refusal.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"type": "AdamW"}}, "cannot use optimizer"),
        ({"train_batch_size": 32}, "train_batch_size 32 contradicts batch.global_batch_size 16"),
        ({"gradient_accumulation_steps": 3}, "contradicts 4 lanes / 1 ranks 4"),
        ({"gradient_clipping": 1.0}, "gradient_clipping 1.0 contradicts the pipeline's own clipping 0.0"),
        ({"zero_optimization": {"stage": 3}}, "ZeRO stage 3 is not supported"),
        ({"zero_optimization": {"stage": "two"}}, "stage 'two' is not 0, 1 or 2"),
        ({"zero_optimization": {"stage": 1, "reduce_bucket_size": "auto"}}, "zero_optimization.reduce_bucket_size"),
        ({"zero_optimization": 1}, "zero_optimization is not an object"),
        ({"zero_allow_untested_optimizer": False}, "needs zero_allow_untested_optimizer true"),
        ({"zero_optimization": {"stage": True}}, "stage True is not 0, 1 or 2"),
        ({"zero_optimization": {"stage": ["x" * 5000]}}, r"stage \['x+\.\.\. is not 0, 1 or 2"),
        ({"bf16": True}, "bf16 is not an object"),
        ({"fp16": "yes"}, "fp16 is not an object"),
        ({"x" * 5000: 1}, r"cannot use x{97}\.\.\."),
        ({f"key{n}": 1 for n in range(5000)}, "cannot use key0, key1"),
        ({"train_batch_size": "y" * 5000}, r"train_batch_size y{97}\.\.\. contradicts"),
        ({"fp16": {"enabled": True}}, "fp16 is not supported"),
        ({"bf16": {"enabled": "auto"}}, '"auto" at bf16.enabled'),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Each with the file's name and a way out."""
    with pytest.raises(ConfigError, match=message) as refusal:
        resolve_ds_config(recipe(written(tmp_path, **changes)), 1)
    assert "mine.json" in refusal.value.message and refusal.value.hint


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    """Broken JSON, a list, keys written twice, depth, no number, no text, too much; a name that is near one."""
    path = tmp_path / "mine.json"
    for text, why in {
        "{": "cannot be read as JSON",
        "[]": "does not hold a JSON object",
        '{"bf16": {}, "bf16": {}}': "bf16 is written twice",
        '{"gradient_clipping": NaN}': "NaN is no number",
        '{"aio": ' + "[" * 100 + "]" * 100 + "}": "nested more than 32 deep",
        '{"aio": ' * 100_000: "nested more than 32 deep",
        '{"steps_per_print": ' + "9" * 5000 + "}": "cannot be read as JSON",
        '{"x": "' + "x" * 2_000_000 + '"}': "longer than 1,048,576 bytes",
        "\ud800": "no text in UTF-8",
    }.items():
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(ConfigError, match=r"mine.json") as refusal:
            resolve_ds_config(recipe(path), 1)
        assert why in refusal.value.message and len(refusal.value.message) < 400
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="is neither a file nor a name"):
        resolve_ds_config(recipe(path), 1)
    with pytest.raises(ConfigError, match="zero1_bf61 is neither") as refusal:
        resolve_ds_config(recipe("zero1_bf61"), 1)
    assert "did you mean zero1_bf16?" in refusal.value.hint


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert resolve_ds_config(recipe(path), 1).stage == 1


def test_ranks_that_do_not_divide_the_lanes_get_all_four_numbers() -> None:
    """And which numbers of ranks do."""
    with pytest.raises(ConfigError) as refusal:
        resolve_ds_config(recipe("zero1_fp32"), 3)
    assert refusal.value.message == (
        "recipe r: global_batch_size 16 is not micro_batch_size 4 x grad_accum_steps 1 x world_size 3 (= 12)"
    )
    assert "1, 2 or 4 ranks" in refusal.value.hint


def test_a_batch_that_is_no_whole_number_of_lanes_is_refused_with_those_that_are() -> None:
    """512 and 48: the neighbours are computed, not guessed."""
    with pytest.raises(ConfigError) as refusal:
        BatchConfig(global_batch_size=512, micro_batch_size=48)
    assert "512 is not batch.micro_batch_size 48 x a whole number of lanes" in refusal.value.message
    assert refusal.value.hint == "use micro_batch_size 32 or 64, or global_batch_size 480 or 528"
    with pytest.raises(ConfigError, match="global_batch_size 4 is not"):
        BatchConfig(global_batch_size=4, micro_batch_size=8)


def inputs(step: int) -> torch.Tensor:
    """(4, 4, 6): four lanes of four rows."""
    return torch.randn(4, 4, 6, generator=torch.Generator().manual_seed(step))


def toy() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))


def train(rank: int, world_size: int) -> dict[str, tuple[torch.Tensor, int, int]]:
    """Three optimizer steps of the toy under every shipped file; flat weights, ZeRO stage, steps taken."""
    import deepspeed

    from pipeline.config.sections import OptimConfig
    from pipeline.engine import distributed
    from pipeline.engine.optim import build_optimizer
    from pipeline.engine.step_check import check_step, take_step

    world = distributed.init()
    results = {}
    for name in shipped_ds_configs():
        ds = resolve_ds_config(recipe(name), world_size)
        model = toy()
        optimizer = build_optimizer(model, OptimConfig(lr=0.1), device=world.device)
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=ds.config, dist_init_required=False)
        for step in range(3):
            lanes = lanes_of_rank(world.rank, world.size, 4)
            for lane in lanes:
                loss = engine(inputs(step)[lane].to(ds.compute_dtype)).float().square().mean()
                engine.backward(loss)
                if lane != lanes[-1]:
                    engine.step()
            take_step(engine, check_step(engine, torch.zeros(len(lanes), 5), world, num_losses=4), clip_grad_norm=0.5)
        flat = torch.cat([parameter.detach().float().flatten() for parameter in engine.module.parameters()])
        results[name] = (flat, engine.zero_optimization_stage(), engine.global_steps)
    unknown = sorted(KNOWN_ZERO_KEYS - set(deepspeed.runtime.zero.config.DeepSpeedZeroConfig.model_fields))
    assert not unknown, f"DeepSpeed does not know zero_optimization keys {unknown}"
    distributed.shutdown()
    return results


def torch_alone() -> torch.Tensor:
    """The same three steps in plain torch: mean over the 16 rows, clipped, AdamW."""
    model = toy()
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    biases = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": biases, "weight_decay": 0.0}, {"params": weights, "weight_decay": 0.02}], lr=0.1
    )
    for step in range(3):
        optimizer.zero_grad()
        model(inputs(step).reshape(16, 6)).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_deepspeed_trains_with_every_shipped_file() -> None:
    """Two ranks, two lanes each: the steps are those of plain torch on the whole batch."""
    expected = torch_alone()
    for results in run_ranks(train, 2, process_group=False):
        for name, (flat, stage, steps) in results.items():
            assert (stage, steps) == (int(name[4]), 3)
            # fp32: another order of sums. bf16: weights are read with 8 bits, and Adam's step of 0.1 follows the sign
            # of a gradient that such rounding can turn, so only the course can be compared.
            allowed = 1e-5 if name.endswith("fp32") else 0.1
            worst = (flat - expected).abs().max().item()
            assert worst <= allowed, f"{name}: off by {worst:.3g}"


def test_the_top_level_keys_we_hand_on_are_deepspeed_s() -> None:
    """Each stands, quoted or as a constant's value, in DeepSpeed's own source: none is invented."""
    import deepspeed

    source = "\n".join(path.read_text() for path in Path(deepspeed.__path__[0], "runtime").glob("**/con*.py"))
    source += "\n".join(path.read_text() for path in Path(deepspeed.__path__[0]).glob("*/con*.py"))
    source += "\n".join(path.read_text() for path in Path(deepspeed.__path__[0], "runtime").glob("*.py"))
    source += "\n".join(path.read_text() for path in Path(deepspeed.__path__[0], "runtime/swap_tensor").glob("*.py"))
    missing = [key for key in KNOWN_KEYS if f'"{key}"' not in source and f"'{key}'" not in source]
    assert not missing
