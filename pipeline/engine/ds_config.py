"""Find the DeepSpeed JSON, resolve it against the recipe and check it, so that it means what it states.

DeepSpeed drops some "auto" values silently, reads others as a value, and ignores a misspelt top-level key. So every
"auto" is resolved here, unknown keys are errors, and the batch identity (global = micro x accumulation x world) is
checked before DeepSpeed reads the JSON.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from albef.errors import ConfigError
from base.nearest import did_you_mean
from pipeline.config.run_config import RunConfig
from pipeline.config.sections import divisors, either
from pipeline.config.text_file import read_text
from samples.quote import quote

MAX_UNKNOWN = 20
"""Largest number of unknown keys that one message lists."""
MAX_DEPTH = 32
"""Deepest nesting of objects in DeepSpeed's JSON, which needs four."""
EXAMPLE = "see ds_configs/zero1_bf16.json"
SHIPPED = Path(__file__).resolve().parents[2] / "ds_configs"


@dataclass(frozen=True, kw_only=True)
class ResolvedDeepSpeed:
    """The config for `deepspeed.initialize`, and the settings in it that we use."""

    config: dict[str, Any]
    """The JSON, with no "auto" left in it."""
    stage: int
    """ZeRO stage."""
    precision: str
    """fp32 or bf16: the type of the student's weights, and of its arithmetic except where the model uses fp32."""
    grad_accum_steps: int
    """Lanes per rank and optimizer step."""

    @property
    def compute_dtype(self) -> torch.dtype:
        """`precision` as torch's type."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[self.precision]


def resolve_ds_config(run: RunConfig, world_size: int) -> ResolvedDeepSpeed:
    """Read the recipe's DeepSpeed JSON and resolve it for a number of ranks.

    Raises: ConfigError for a missing or unreadable file, an unknown key, a value that contradicts the recipe, a stage
        or precision this pipeline does not train in, and a number of ranks that does not divide the lanes.
    """
    path = find_ds_config(run.deepspeed.config)
    values = _read(path)
    _check_keys(path, values)
    grad_accum_steps = _accumulation(run, world_size)
    ours = {
        "train_batch_size": ("batch.global_batch_size", run.batch.global_batch_size),
        "train_micro_batch_size_per_gpu": ("batch.micro_batch_size", run.batch.micro_batch_size),
        "gradient_accumulation_steps": (f"{run.batch.num_lanes} lanes / {world_size} ranks", grad_accum_steps),
        # DeepSpeed's default is not 0; the pipeline clips by optim.clip_grad_norm (pipeline/engine/step_check.py)
        "gradient_clipping": ("the pipeline's own clipping", 0.0),
        "steps_per_print": ("logging.log_every", run.logging.log_every),
    }
    for key, (source, value) in ours.items():
        if values.get(key, "auto") == "auto":
            values[key] = value
        elif values[key] != value:
            raise ConfigError(
                f"{path}: {key} {quote(values[key])} contradicts {source} {value} of recipe {run.name}",
                f'write "{key}": "auto" there, and change the recipe if {quote(values[key])} is what you want'
                + (" (optim.clip_grad_norm)" if key == "gradient_clipping" else ""),
            )
    if left := _autos(values):
        raise ConfigError(
            f'{path}: "auto" at {quote(", ".join(left), 200)} cannot be resolved',
            f"write a value; auto is for {', '.join(ours)} only",
        )
    stage, precision = _stage(path, values), _precision(path, values)
    _leave_checks_to_us(values, stage, precision)
    return ResolvedDeepSpeed(config=values, stage=stage, precision=precision, grad_accum_steps=grad_accum_steps)


def find_ds_config(name: str) -> Path:
    """The file of a name in ds_configs/, or of a path.

    Raises: ConfigError that names the nearest existing one.
    """
    for path in (Path(name), SHIPPED / name, SHIPPED / f"{name}.json"):
        if os.path.isfile(path):
            return path
    raise ConfigError(
        f"deepspeed.config {quote(name)} is neither a file nor a name in ds_configs/",
        f"{did_you_mean(name, shipped_ds_configs())}there are {', '.join(shipped_ds_configs())}",
    )


def shipped_ds_configs() -> list[str]:
    """Names of the JSON files in ds_configs/."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


KNOWN_KEYS = frozenset(
    {
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "steps_per_print",
        "zero_optimization",
        "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
        "bf16",
        "fp16",
        "data_types",
        "communication_data_type",
        "prescale_gradients",
        "gradient_predivide_factor",
        "checkpoint",
        "wall_clock_breakdown",
        "memory_breakdown",
        "flops_profiler",
        "comms_logger",
        "aio",
        "dump_state",
    }
)
"""Top-level keys that we accept. DeepSpeed has more; a key that we do not use is treated as a misspelling."""

KNOWN_ZERO_KEYS = frozenset(
    {
        "stage",
        "contiguous_gradients",
        "reduce_scatter",
        "reduce_bucket_size",
        "use_multi_rank_bucket_allreduce",
        "allgather_partitions",
        "allgather_bucket_size",
        "overlap_comm",
        "load_from_fp32_weights",
        "elastic_checkpoint",
        "offload_optimizer",
        "ignore_unused_parameters",
        "round_robin_gradients",
        "parameter_alignment",
    }
)
"""Keys of `zero_optimization` that have an effect at stages 0 to 2."""

OURS = {
    "optimizer": "the optimizer is built from `optim` in the recipe",
    "scheduler": "the schedule is `schedule` in the recipe",
    "tensorboard": "scalars are written by the pipeline: `logging` in the recipe",
    "csv_monitor": "scalars are written by the pipeline: `logging` in the recipe",
    "wandb": "scalars are written by the pipeline: `logging` in the recipe",
}
"""Keys of DeepSpeed that the recipe sets instead."""


def _read(path: Path) -> dict[str, Any]:
    """Raises: ConfigError for anything but a JSON object, a key written twice, NaN, and deep nesting."""
    text = read_text(path, "DeepSpeed's JSON", EXAMPLE)
    try:
        values = json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_constant)
        deep = _depth(values) > MAX_DEPTH
    except RecursionError:
        deep = True
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read as JSON: {quote(error, 150)}", EXAMPLE) from None
    if deep:
        raise ConfigError(f"{path} is nested more than {MAX_DEPTH} deep", EXAMPLE)
    if not isinstance(values, dict):
        raise ConfigError(f"{path} does not hold a JSON object", EXAMPLE)
    for name in ("zero_optimization", "bf16", "fp16", "data_types"):
        if not isinstance(values.get(name, {}), dict):
            raise ConfigError(f"{path}: {name} is not an object", f'write "{name}": {{...}}; {EXAMPLE}')
    return values


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{quote(name)} is written twice")
        values[name] = value
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _depth(values: Any) -> int:
    inside = list(values.values()) if isinstance(values, dict) else values if isinstance(values, list) else []
    return 1 + max(map(_depth, inside), default=0)


def _check_keys(path: Path, values: dict[str, Any]) -> None:
    problems, hints = [], []
    zero = values.get("zero_optimization", {})
    found = [(key, "", KNOWN_KEYS) for key in values] + [(key, "zero_optimization.", KNOWN_ZERO_KEYS) for key in zero]
    for key, prefix, known in found:
        if key in known:
            continue
        problems.append(prefix + key)
        if len(problems) > MAX_UNKNOWN:
            break
        if not prefix and key in OURS:
            hints.append(f"{key}: {OURS[key]}")
        elif prefix and key.startswith("stage3_"):
            hints.append(f"{prefix}{key} is for ZeRO 3")
        else:
            near = did_you_mean(quote(key), known, prefix=prefix)
            hints.append(near or f"{prefix}{quote(key)} is not used here: remove it")
    if problems:
        hint = "; ".join(hint.rstrip("; ") for hint in hints[:MAX_UNKNOWN])
        raise ConfigError(f"{path}: cannot use {', '.join(map(quote, problems[:MAX_UNKNOWN]))}", hint)


def _accumulation(run: RunConfig, world_size: int) -> int:
    """Accumulation steps, so that global = micro x accumulation x world."""
    batch = run.batch
    if batch.num_lanes % world_size:
        steps = max(1, batch.num_lanes // world_size)
        ranks = divisors(batch.num_lanes)
        raise ConfigError(
            f"recipe {run.name}: global_batch_size {batch.global_batch_size} is not micro_batch_size "
            f"{batch.micro_batch_size} x grad_accum_steps {steps} x world_size {world_size} "
            f"(= {batch.micro_batch_size * steps * world_size})",
            f"its {batch.num_lanes} lanes go to {either(*ranks)} ranks; or choose a global_batch_size that is a "
            f"multiple of {batch.micro_batch_size * world_size}",
        )
    return batch.num_lanes // world_size


def _stage(path: Path, values: dict[str, Any]) -> int:
    stage = values.get("zero_optimization", {}).get("stage", 0)
    if stage == 3:
        raise ConfigError(
            f"{path}: ZeRO stage 3 is not supported",
            "whole weights are read after each step, and ALBEF's fit one GPU: use stage 1 or 2",
        )
    if type(stage) is not int or stage not in (0, 1, 2):
        raise ConfigError(f"{path}: zero_optimization.stage {quote(repr(stage))} is not 0, 1 or 2", "use 0, 1 or 2")
    if stage > 0 and values.get("zero_allow_untested_optimizer") is not True:
        raise ConfigError(
            f"{path}: ZeRO stage {stage} needs zero_allow_untested_optimizer true",
            'add "zero_allow_untested_optimizer": true; we give DeepSpeed torch\'s AdamW',
        )
    return stage


def _precision(path: Path, values: dict[str, Any]) -> str:
    if values.get("fp16", {}).get("enabled"):
        raise ConfigError(
            f"{path}: fp16 is not supported", 'use "bf16": {"enabled": true}, which needs no loss scale, or fp32'
        )
    return "bf16" if values.get("bf16", {}).get("enabled") else "fp32"


def _leave_checks_to_us(values: dict[str, Any], stage: int, precision: str) -> None:
    """Switch off DeepSpeed's own test for overflow and its own norm, which `step_check` does once, exactly."""
    if precision == "bf16":
        values["bf16"]["check_grad_overflow"] = False
    if stage == 0 or "offload_optimizer" in values["zero_optimization"]:
        return  # DeepSpeed refuses to leave its norm out there
    fp32_sums = values.get("data_types", {}).get("grad_accum_dtype") == "fp32"
    if not (stage == 1 and precision == "bf16" and fp32_sums):  # there LeanBf16Optimizer takes no norm
        values["zero_optimization"]["compute_grad_norm"] = False


def _autos(values: Any, prefix: str = "") -> list[str]:
    """Dotted names of the values that are "auto"."""
    if values == "auto":
        return [prefix]
    if not isinstance(values, dict):
        return []
    return [name for key, value in values.items() for name in _autos(value, f"{prefix}.{key}" if prefix else key)]
