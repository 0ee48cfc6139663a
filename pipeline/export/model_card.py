"""README.md of an exported model: what it is and where it comes from, with no facts but those of its run.

A task adds the rows about its own training, how its model is used, and what its validation measures.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from albef.config import AlbefConfig
from pipeline.checkpoints.meta import CheckpointMeta
from pipeline.run.markdown import as_code, as_text
from pipeline.run.metrics_file import newest_first

log = logging.getLogger(__name__)

LIMITS = """\
## Limits

No evaluation beyond what is stated above was made for this card. A model trained on pairs from the web repeats the
web's associations, wrong and harmful ones included; measure it on your own task and people before relying on it.
"""


def model_card(title: str, config: AlbefConfig, *, origin: Mapping[str, str], use: str, validation: str = "") -> str:
    """The card, in Markdown.

    Args:
        title: a name; any text.
        origin: rows of the table "Where it comes from", in Markdown.
        use: the section that shows how the model is used.
        validation: the section of `validation_of`, or none.
    """
    shape = {
        "image": f"{config.image_size} px, patches of {config.patch_size} px, squashed to a square",
        "image encoder": f"{_count(config.vision_depth, 'layer')} of width {config.vision_width}",
        "text encoder": f"{_count(config.text_depth, 'layer')} of width {config.text_width}",
        "multimodal encoder": f"{_count(config.fusion_depth, 'layer')} of width {config.text_width}",
        "joint space": f"{config.embed_dim} dimensions",
    }
    parts = [
        "---\npipeline_tag: feature-extraction\ntags:\n- albef\n- vision-language\n---\n",
        f"# ALBEF: {as_text(title)}\n",
        "An image and text encoder with a multimodal encoder on top, after Li et al., *Align before Fuse: Vision and "
        "Language\nRepresentation Learning with Momentum Distillation* (2021).\n",
        "## Where it comes from\n\n" + _table(origin),
        "## Shape\n\n" + _table(shape),
        validation,
        use,
        LIMITS,
    ]
    return "\n".join(part for part in parts if part)


def rows_of_run(meta: CheckpointMeta, *, weights: str, trained: Mapping[str, str], checkpoint: str) -> dict[str, str]:
    """The rows "Where it comes from" of a model taken from a run's checkpoint.

    Args:
        weights: which of the checkpoint's weights were taken.
        trained: the task's own rows: what was trained, and how.
        checkpoint: the name of its folder.
    """
    return {
        "run": as_text(meta.run_name),
        "weights": weights,
        "optimizer steps": f"{meta.step:,}",
        "pairs seen": f"{meta.samples_seen:,} (with repetition), in epoch {meta.epoch}",
        **trained,
        "trained in": f"{as_text(meta.precision)}, ZeRO stage {meta.zero_stage}, {_count(meta.world_size, 'rank')}",
        "checkpoint": f"{as_text(checkpoint)}, saved {as_text(meta.created)}",
        "configuration hash": as_code(meta.config_hash),
    }


def validation_of(checkpoint: Path, step: int, what: str) -> str:
    """The section with the validation scalars that the run's metrics.jsonl has for a step; empty if it has none.

    Args:
        checkpoint: the step's folder in its run folder; anywhere else there are no metrics.
        what: the sentence that says what the scalars are.
    """
    values: dict[str, float] = {}
    metrics = checkpoint.parent.parent / "metrics.jsonl"
    try:
        entries = [entry for entry in newest_first(metrics) if entry["step"] == step]
    except OSError as error:
        log.warning("the card has no validation results: %s", error)
        entries = []
    for entry in reversed(entries):
        values |= {name: value for name, value in entry.items() if name.startswith("val/") and value is not None}
    rows = {as_text(name.removeprefix("val/")): f"{value:.2f}" for name, value in values.items()}
    return f"## Validation\n\n{what}\n\n{_table(rows)}" if rows else ""


def _table(rows: Mapping[str, str]) -> str:
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows.items())


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
