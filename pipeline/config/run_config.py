"""The whole configuration of a run: every key, resolved, as a dataclass of sections; and its dump as a recipe."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml
from pydantic import NonNegativeInt, PositiveInt

from albef.config import InitConfig, ObjectiveConfig
from pipeline.config.sections import (
    BatchConfig,
    CheckpointConfig,
    DataConfig,
    DeepSpeedConfig,
    LogConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    ValidationConfig,
    WatchConfig,
)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run, resolved. `run.folder` writes it as config.yaml, which is itself a recipe."""

    name: str = "run"
    """Name of the run, and of its folder under runs/. The default is the name of the recipe's file."""
    preset: Literal["fixed", "paper"] = "fixed"
    """paper: keep the known defects of the original, which docs/decisions.md names. fixed: repair them. A preset only
    changes defaults: recipe and flags override it."""
    seed: NonNegativeInt = 0
    """Seed of initial weights, order of samples, masks, negatives, augmentation and dropout."""
    epochs: PositiveInt = 30
    """Passes over the data."""
    max_steps: PositiveInt | None = None
    """Length of the run in optimizer steps, instead of epochs. The schedule ends there too."""
    model: ModelConfig = field(default_factory=ModelConfig)
    init: InitConfig = field(default_factory=InitConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    deepspeed: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LogConfig = field(default_factory=LogConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the whole run."""
        return self.max_steps or self.epochs * steps_per_epoch

    def hash(self) -> str:
        """Sixteen hex digits that change with any value of the configuration."""
        return hashlib.sha256(json.dumps(to_dict(self), sort_keys=True).encode()).hexdigest()[:16]


def to_dict(run: RunConfig) -> dict[str, Any]:
    """Plain nested values, ready for YAML or JSON: every key, none resolved further."""
    return json.loads(json.dumps(dataclasses.asdict(run)))


def to_yaml(run: RunConfig) -> str:
    """The whole configuration as a recipe that runs again as it is."""
    return yaml.safe_dump(to_dict(run), sort_keys=False, allow_unicode=True, width=120)
