"""Every key of a recipe, section by section, with its meaning, its default and its valid values.

`albef` defines the keys of `model`, `init` and `objective`; `run_config` puts the sections together. This file imports
no torch, so that reading a recipe or printing `--help` is quick.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from albef.config import AlbefConfig
from albef.errors import ConfigError
from samples.quote import quote


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random augmentation of a training image."""

    crop_scale_min: Annotated[float, Field(gt=0, le=1)] | None = 0.2
    """Smallest share of the image's area that a crop covers; at 1.0 the crop's shape still varies. null crops nothing:
    the whole image is squashed to the square."""
    flip_probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of mirroring the image. Use 0 for data whose captions name left and right."""
    randaugment_ops: NonNegativeInt = 2
    """Operations drawn per image, each applied with probability 0.5; 0 turns RandomAugment off."""
    randaugment_level: Annotated[float, Field(ge=0, le=10)] = 7.0
    """Strength of these operations, 0 to 10."""
    randaugment_overflow: bool = False
    """Keep two defects of the original: AutoContrast turns channels white, Sharpness wraps around (preset `paper`)."""


DEFAULT_WINDOW_SHARDS = 8


ALL_SHARDS = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class LoadingConfig:
    """How samples are read, in every task. None of these keys changes what is trained on."""

    num_workers: NonNegativeInt = 4
    """Processes per rank that read and decode samples; 0 reads in the training process."""
    prefetch: PositiveInt = 2
    """Micro-batches that each worker prepares ahead."""
    max_failures_in_a_row: PositiveInt = 100
    """End the run with an error after this many consecutive samples of a rank had to be replaced."""
    timeout_s: NonNegativeInt = 900
    """End the run when loading a micro-batch takes longer than this, as on a hung mount; 0 waits without limit. Needs
    num_workers above 0."""

    @property
    def window_shards(self) -> int:
        """Number of shards whose samples are shuffled together."""
        return ALL_SHARDS

    @property
    def source_weights(self) -> tuple[float, ...] | None:
        """Each source's share of an epoch; None takes every sample once."""
        return None


@dataclass(frozen=True, kw_only=True)
class DataConfig(LoadingConfig):
    """What to train on and how to read it. `num_workers`, `prefetch`, `max_failures_in_a_row`, `timeout_s` and the keys
    of the cache do not change what is trained on."""

    manifests: tuple[str, ...] = ()
    """Paths or URLs of manifest.parquet files, of folders that hold one, or brace patterns of either. Each entry is a
    source; together they are the corpus."""
    weights: tuple[float, ...] | None = None
    """Each source's share of an epoch, in the order of manifests and in any unit. An epoch then has as many global
    batches as the weights allow without repeating a sample, and later epochs start with the samples that it left out.
    null: every sample once per epoch."""
    shuffle_window_shards: PositiveInt = DEFAULT_WINDOW_SHARDS
    """Number of consecutive shards, in the epoch's shuffled order of shards, whose samples are shuffled together. With
    weights, the windows of each source are separate."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random augmentation of the images."""
    max_caption_words: PositiveInt = 30
    """Cut captions to this many words, before the tokenizer cuts them to `objective.max_text_tokens`."""
    shard_opener: str | None = None
    """For stores that do not support range requests: the URL or `pipe:` command that webdataset opens to stream a whole
    shard, with {path} for the shard's path or URL and {name} for its file name, as in `pipe:ssh store cat {path}`.
    null: read byte ranges."""
    cache_dir: str | None = None
    """With shard_opener: a folder on each machine's own disk. Copies of shards go into a separate folder inside it;
    other files there are not touched."""
    cache_gib: PositiveFloat = 64.0
    """With shard_opener: maximum size of the copies in cache_dir; the least recently used shard is removed first."""

    def __post_init__(self) -> None:
        if self.weights is not None:
            check_weights(self.weights, len(self.manifests))

    @property
    def window_shards(self) -> int:
        """`shuffle_window_shards`."""
        return self.shuffle_window_shards

    @property
    def source_weights(self) -> tuple[float, ...] | None:
        """`weights`."""
        return self.weights


BatchSize = Annotated[int, Field(gt=0, le=2**31 - 1)]


@dataclass(frozen=True, kw_only=True)
class ModelConfig(AlbefConfig):
    """Widths and depths of the three encoders and the heads (paper, section 3.1), and how a run computes them."""

    activation_checkpointing: bool = False
    """Keep only the inputs of each image and multimodal layer for the backward, and compute the rest again: less memory
    for a third more work. The numbers stay the same to the bit."""
    compile: bool = False
    """Compile what a lane computes, forward and backward, with torch.compile. For GPUs: it takes minutes at the start,
    and on a CPU nothing is gained. Sums are rounded and dropout is drawn in another way."""
    kernels: Literal["auto", "torch", "triton"] = "auto"
    """Which version of the fused kernels runs (docs/kernels.md). auto: Triton on a CUDA device where it can run, else
    plain torch. torch: plain torch, to compare or to get around a kernel. triton: an error where it cannot run."""

    @property
    def shape(self) -> AlbefConfig:
        """The model's shape alone, which is what a checkpoint records."""
        return AlbefConfig(**self.to_dict())


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """The batch of one optimizer step. It does not depend on the number of ranks."""

    global_batch_size: BatchSize = 512
    """Image-text pairs in one optimizer step, over all ranks and accumulation steps."""
    micro_batch_size: BatchSize = 64
    """Image-text pairs in one lane: the in-batch candidates of the contrastive loss and the pool of hard negatives."""

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
    """AdamW as in the paper; `schedule` sets how the learning rate changes."""

    lr: PositiveFloat = 1e-4
    """Peak learning rate. It is not scaled with the batch size."""
    temperature_lr_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the learning rate that the contrastive temperature gets. AdamW moves it by about the rate in each step.
    That is slow at the paper's 1e-4; at the 1e-3 of a small model it falls to its lower clamp within 100 steps, and
    matching is not learned."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    eps: PositiveFloat = 1e-8
    """AdamW's term against division by zero."""
    weight_decay: NonNegativeFloat = 0.02
    """Decoupled weight decay of the parameters that `decay_groups` selects."""
    decay_groups: Literal["fixed", "official"] = "fixed"
    """official: decay all parameters except one-dimensional ones and biases, so also the temperature, the class token
    and the position embeddings. fixed: do not decay these three either. Both decay word embeddings."""
    clip_grad_norm: NonNegativeFloat | None = None
    """Clip the gradient's global norm to this; null (the paper) does not clip."""

    def __post_init__(self) -> None:
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ConfigError(f"optim.betas {list(self.betas)} are not both in [0, 1)", "the paper's are [0.9, 0.999]")


PAPER_WARMUP_STRIDE = 100
"""The original's warm-up changes the rate once in this many steps (Pretrain.py, step_size)."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate moves from `warmup_lr` to `optim.lr` to `min_lr`, and how the distillation weight rises."""

    mode: Literal["per_step", "per_epoch"] = "per_step"
    """per_step: linear warm-up, then a cosine, both updated every step. per_epoch: the original's schedule, which
    updates the rate every 100 steps during warm-up and every epoch after it, and ends the warm-up with the first
    epoch."""
    warmup_steps: NonNegativeInt = 2_000
    """Steps until the rate reaches optim.lr. Mode per_epoch needs a multiple of 100."""
    warmup_lr: NonNegativeFloat = 1e-5
    """Learning rate of the first step."""
    min_lr: NonNegativeFloat = 1e-5
    """Learning rate at the end of the cosine."""
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
    """Which DeepSpeed JSON to use. It sets ZeRO stage and precision; the recipe sets everything else."""

    config: str = "zero1_bf16"
    """Name of a file in ds_configs/, without .json, or a path."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save and what to keep."""

    save_every: PositiveInt = 1_000
    """Save every N optimizer steps. The last step and a requested stop always save."""
    keep_last: PositiveInt = 2
    """Keep this many of the newest checkpoints."""
    keep_every: NonNegativeInt = 0
    """Also keep every checkpoint whose step is a multiple of this; 0 keeps only keep_last."""
    asynchronous: bool = True
    """Write in the background: training pauses only for the copy to host memory, which must have room for what this
    rank saves. The last step and a requested stop always wait for the write."""


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """How often to log what."""

    log_every: PositiveInt = 50
    """Log every N optimizer steps; the first and the last step are always logged."""
    images_every: NonNegativeInt = 1_000
    """Add images of samples and pseudo-targets to TensorBoard every N optimizer steps; 0 adds none."""
    tensorboard: bool = True
    """Write TensorBoard files. metrics.jsonl is written in any case."""
    profile: str | None = None
    """Trace steps A to B - 1, counted from 0, of rank 0, as in 100:105. The trace goes to profile/ in the run folder;
    TensorBoard's profiler plugin and ui.perfetto.dev open it. null: none."""

    def __post_init__(self) -> None:
        _ = self.profiled_steps

    @property
    def profiled_steps(self) -> range:
        """The steps of `profile`.

        Raises: ConfigError if it is no range of steps.
        """
        if self.profile is None:
            return range(0)
        found = re.fullmatch(r"([0-9]{1,12}):([0-9]{1,12})", self.profile)
        if not found or int(found[1]) >= int(found[2]):
            raise ConfigError(
                f"logging.profile {quote(self.profile)} is not a range of steps A:B with A below B",
                "write --logging.profile 100:105 for the five steps from 100, or null for none",
            )
        return range(int(found[1]), int(found[2]))


@dataclass(frozen=True, kw_only=True)
class ValidationSchedule:
    """When the model is scored during training, and by how many at once, in every task."""

    every_steps: NonNegativeInt = 1_000
    """Validate every N optimizer steps; 0 validates only before the first step."""
    batch_size: PositiveInt = 32
    """Images, and texts, encoded at once; also the unit in which the work is divided among ranks."""
    num_workers: PositiveInt = 2
    """Threads per rank that load images."""


@dataclass(frozen=True, kw_only=True)
class ValidationConfig(ValidationSchedule):
    """Zero-shot retrieval with the student during training: before the first step, every N steps and after the last."""

    manifest: str | None = None
    """manifest.parquet of the validation shards, or the folder that holds it. null: no validation."""
    num_images: PositiveInt = 1_000
    """Use the first N images of the manifest."""
    captions: Literal["all", "first"] = "first"
    """Use every caption of an image, or only its first."""
    k_test: PositiveInt = 16
    """Candidates per query that the matching head re-ranks; its cost grows in proportion."""
    max_text_tokens: PositiveInt = 25
    """Cut texts to this many tokens, [CLS] included. The default is that of objective.max_text_tokens."""


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """When to warn about a run, and when to end it (docs/stopping.md)."""

    max_skipped_in_a_row: PositiveInt = 5
    """End the run after this many consecutive steps were skipped because a loss or the gradient was not finite."""
    max_dumps: NonNegativeInt = 20
    """Keep the batches of this many skipped steps in the run folder, for `replay`; of others only the sample keys."""
    hang_s: NonNegativeFloat = 1_200.0
    """End the job when a rank makes no progress, or sends no report, for this long. Must be longer than the longest
    normal pause: one save, one batch of validation, data.timeout_s. 0 checks only for ranks that died."""
    slow_step_factor: NonNegativeFloat = 5.0
    """Log steps slower than this multiple of the recent median; 0 disables."""


def check_weights(weights: tuple[float, ...], num_sources: int, key: str = "data.weights") -> None:
    """Check that there is one positive number per source.

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
                "a weight is a number above 0; to leave a source out, remove it from data.manifests",
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
