"""Every key of a recipe, section by section, with its meaning, its default and what values it takes.

The keys of `model`, `init` and `objective` are those of `albef.config`. `run_config` puts the sections together. This
file imports no torch: a recipe is read, and `--help` printed, without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from albef.errors import ConfigError
from samples.quote import quote


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """The random changes to a training image."""

    crop_scale_min: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Least share of the image's area that a crop covers; 1.0 still varies the crop's shape."""
    flip_probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Chance of mirroring. Zero for data whose captions say left and right."""
    randaugment_ops: NonNegativeInt = 2
    """Operations drawn per image, each applied half of the time; 0 turns RandomAugment off."""
    randaugment_level: Annotated[float, Field(ge=0, le=10)] = 7.0
    """Their strength, 0 to 10."""
    randaugment_overflow: bool = False
    """As the original, let AutoContrast turn channels white and Sharpness wrap around (the `paper` preset)."""


DEFAULT_WINDOW_SHARDS = 8


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on and how to read it. From `num_workers` on, nothing here changes what is trained on."""

    manifests: tuple[str, ...] = ()
    """manifest.parquet files, folders that hold one, or brace patterns of those, on a disk or by URL; together they are
    the corpus, and each entry is a source."""
    weights: tuple[float, ...] | None = None
    """Each source's share of an epoch, in the order of manifests and in any unit: an epoch is then the longest one with
    these shares in which no sample occurs twice, and later epochs take what it left. null: every sample once."""
    shuffle_window_shards: PositiveInt = DEFAULT_WINDOW_SHARDS
    """Neighbouring shards (of an epoch's permutation) whose samples are shuffled together; with weights in each
    source."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """The random changes to the images."""
    max_caption_words: PositiveInt = 30
    """Captions are cut to this many words before the tokenizer cuts them to tokens."""
    num_workers: NonNegativeInt = 4
    """Processes that read and decode, for each rank; 0 does it in the training process."""
    prefetch: PositiveInt = 2
    """Micro-batches each worker prepares ahead."""
    max_failures_in_a_row: PositiveInt = 100
    """So many replaced samples one after another (in a rank's order) end the run with an error."""
    timeout_s: NonNegativeInt = 900
    """A micro-batch that takes longer than this ends the run (a hung mount); 0 waits for ever. Needs workers."""
    shard_opener: str | None = None
    """For stores that cannot be read by ranges: what webdataset opens to stream a whole shard, with {path} for its path
    or URL and {name} for its last part, as `pipe:ssh store cat {path}`. null: read by ranges."""
    cache_dir: str | None = None
    """With shard_opener: the folder, on each machine's own disk, in which a folder for copies of shards is made; other
    files in it stay."""
    cache_gib: PositiveFloat = 64.0
    """With shard_opener: room for shards in cache_dir; the one used longest ago goes first."""

    def __post_init__(self) -> None:
        if self.weights is not None:
            check_weights(self.weights, len(self.manifests))


BatchSize = Annotated[int, Field(gt=0, le=2**31 - 1)]


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """The batch of one optimizer step. It does not depend on how many ranks there are."""

    global_batch_size: BatchSize = 512
    """Pairs an optimizer step sees, over all ranks and accumulation steps."""
    micro_batch_size: BatchSize = 64
    """Pairs in one lane: the in-batch candidates of the contrastive loss and the pool of hard negatives."""

    def __post_init__(self) -> None:
        whole, part = self.global_batch_size, self.micro_batch_size
        if whole % part:
            sizes = divisors(whole)
            below = max(size for size in sizes if size < part)
            above = min((size for size in sizes if size > part), default=below)
            lanes = whole // part
            raise ConfigError(
                f"batch.global_batch_size {whole} is not batch.micro_batch_size {part} x a whole number of lanes",
                f"use micro_batch_size {either(below, above)}, or global_batch_size "
                f"{either(lanes * part or part, (lanes + 1) * part)}",
            )

    @property
    def num_lanes(self) -> int:
        """Micro-batches in a global batch; the number of ranks must divide it."""
        return self.global_batch_size // self.micro_batch_size


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW as in the paper; the rate's course is in `schedule`."""

    lr: PositiveFloat = 1e-4
    """Peak learning rate, for the global batch as it is: no automatic scaling with the batch."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay of the first and second moment."""
    eps: PositiveFloat = 1e-8
    """AdamW's term against division by zero."""
    weight_decay: NonNegativeFloat = 0.02
    """Decoupled weight decay of the parameters that `decay_groups` decays."""
    decay_groups: Literal["fixed", "official"] = "fixed"
    """official: decay all but one-dimensional parameters and biases, so also the temperature, the class token and the
    position embeddings. fixed: spare these as well. Word embeddings are decayed in both."""
    clip_grad_norm: NonNegativeFloat | None = None
    """Clip the gradient's global norm to this; null (the paper) does not clip."""

    def __post_init__(self) -> None:
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ConfigError(f"optim.betas {list(self.betas)} are not both in [0, 1)", "the paper's are [0.9, 0.999]")


PAPER_WARMUP_STRIDE = 100
"""The original's warm-up moves once in so many steps (Pretrain.py, step_size)."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate runs from `warmup_lr` to `optim.lr` to `min_lr`, and how alpha rises."""

    mode: Literal["per_step", "per_epoch"] = "per_step"
    """per_step: linear warm-up, then a cosine that moves every step. per_epoch: the original's, which holds the rate
    for 100 steps in the warm-up and for an epoch after it, and cuts the warm-up off at the end of the first epoch."""
    warmup_steps: NonNegativeInt = 2_000
    """Steps until the rate reaches optim.lr. In per_epoch mode a multiple of 100."""
    warmup_lr: NonNegativeFloat = 1e-5
    """Rate of the first step."""
    min_lr: NonNegativeFloat = 1e-5
    """Where the cosine ends."""
    alpha_ramp_epochs: NonNegativeFloat = 1.0
    """Epochs over which the distillation weight rises from 0 to objective.alpha; 0 starts at objective.alpha."""

    def __post_init__(self) -> None:
        if self.mode == "per_epoch" and self.warmup_steps % PAPER_WARMUP_STRIDE:
            raise ConfigError(
                f"schedule.warmup_steps {self.warmup_steps} is not a multiple of {PAPER_WARMUP_STRIDE}, "
                "as schedule.mode per_epoch needs",
                f"round it to {round(self.warmup_steps / PAPER_WARMUP_STRIDE) * PAPER_WARMUP_STRIDE}, "
                "or use schedule.mode per_step",
            )


@dataclass(frozen=True, kw_only=True)
class DeepSpeedConfig:
    """Which DeepSpeed JSON: ZeRO stage and precision live there, everything else in the recipe."""

    config: str = "zero1_bf16"
    """Name of a file in ds_configs/ (without .json), or a path."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save and what to keep."""

    save_every: PositiveInt = 1_000
    """Save every so many optimizer steps; the last step and a told stop are always saved."""
    keep_last: PositiveInt = 2
    """Keep this many of the newest checkpoints."""
    keep_every: NonNegativeInt = 0
    """Keep checkpoints whose step is a multiple of this for good; 0 keeps none beyond keep_last."""
    asynchronous: bool = True
    """Write in the background: training pauses only for the copy to host memory, which needs room there for what this
    rank saves. The last step and a told stop are always waited for."""


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """How often to say what."""

    log_every: PositiveInt = 50
    """Optimizer steps between two log lines; the first and the last step are always logged."""
    images_every: NonNegativeInt = 1_000
    """Optimizer steps between two pictures in TensorBoard (samples, pseudo-targets); 0 draws none."""
    tensorboard: bool = True
    """Write TensorBoard files; metrics.jsonl is always written."""


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Zero-shot retrieval with the student as it trains: before the first step, every so many steps, after the last."""

    manifest: str | None = None
    """manifest.parquet of the validation shards, or the folder that holds it; null: no validation."""
    every_steps: NonNegativeInt = 1_000
    """Validate every so many optimizer steps; 0 leaves only the one before the first step."""
    num_images: PositiveInt = 1_000
    """Take the first so many images of the manifest."""
    captions: Literal["all", "first"] = "first"
    """Every caption of an image, or its first one only."""
    k_test: PositiveInt = 16
    """Candidates per query that the matching head re-ranks; the cost of it grows with k."""
    batch_size: PositiveInt = 32
    """Images, and texts, encoded at once; also what the ranks share the work by."""
    max_text_tokens: PositiveInt = 25
    """Texts are cut to this many tokens, [CLS] included; by default those training sees (objective.max_text_tokens)."""
    num_workers: PositiveInt = 2
    """Threads per rank that load images."""


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """What counts as trouble while a run trains, and how long it is borne (docs/stopping.md)."""

    max_skipped_in_a_row: PositiveInt = 5
    """Steps skipped one after another, because a loss or the gradient was not finite, that end the run."""
    max_dumps: NonNegativeInt = 20
    """Skipped steps of a run folder whose batches are kept for `replay`; of further ones the sample keys only."""
    hang_s: NonNegativeFloat = 1_200.0
    """A rank that stands still, or is not heard of, for so long ends the job. Longer than the longest honest pause: one
    save, one batch of validation, data.timeout_s. 0 watches for ranks that died only."""
    slow_step_factor: NonNegativeFloat = 5.0
    """A step that takes so many times the median of the recent ones is told in the log; 0 tells none."""


def check_weights(weights: tuple[float, ...], num_sources: int, key: str = "data.weights") -> None:
    """One positive number a source.

    Raises: ConfigError that names `key` and the way out.
    """
    if len(weights) != num_sources:
        raise ConfigError(
            f"{key} has {len(weights)} numbers for {num_sources} sources",
            "give one weight for each entry of data.manifests, in their order, or null to take every sample once",
        )
    for source, weight in enumerate(weights):
        if not (math.isfinite(weight) and weight > 0):
            raise ConfigError(
                f"{key}: {weight} is not a share (number {source + 1} of {listed(weights)})",
                "a weight is a number above 0; to leave a source out, take it out of data.manifests",
            )


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    lower = [candidate for candidate in range(1, math.isqrt(number) + 1) if number % candidate == 0]
    return sorted({*lower, *(number // candidate for candidate in lower)})


def either(*numbers: int) -> str:
    texts = [str(number) for number in dict.fromkeys(numbers)]
    return " or ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def listed(weights: tuple[float, ...]) -> str:
    return quote("[" + ", ".join(f"{weight:g}" for weight in weights) + "]")
