"""README.md of an exported model: what it is and where it comes from, with no facts but those of its run."""

from __future__ import annotations

import logging

from albef.config import AlbefConfig
from pipeline.checkpoints.weights import CheckpointWeights
from pipeline.run.markdown import as_code, as_text
from pipeline.run.metrics_file import newest_first

log = logging.getLogger(__name__)

USE = """\
## Use

```python
from PIL import Image
from albef import Albef

model = Albef.from_pretrained("this folder")
_, image_feat = model.encode_image([Image.open("photo.jpg")])
_, text_feat, _ = model.encode_text(["a dog on a beach", "two cups of coffee"])
similarity = image_feat @ text_feat.T                      # contrastive: fast, for ranking many
probability = model.match([Image.open("photo.jpg")], ["a dog on a beach"])  # the multimodal encoder's opinion
```
"""

LIMITS = """\
## Limits

No evaluation beyond what is stated above was made for this card. A model trained on pairs from the web repeats the
web's associations, wrong and harmful ones included; measure it on your own task and people before relying on it.
"""


def card_of_checkpoint(weights: CheckpointWeights, kind: str) -> str:
    """The card of a model taken from a run's checkpoint; `kind` is student or teacher."""
    meta, objective = weights.meta, weights.objective
    losses = [name for name in ("itc", "itm", "mlm") if getattr(objective, name)]
    distilled = [name for name in losses if name != "itm" and getattr(objective, f"distill_{name}")]
    rows = {
        "run": as_text(meta.run_name),
        "weights": "momentum teacher (matching head and temperature are the student's)" if kind == "teacher" else kind,
        "optimizer steps": f"{meta.step:,}",
        "pairs seen": f"{meta.samples_seen:,} (with repetition), in epoch {meta.epoch}",
        "losses": ", ".join(losses),
        "momentum distillation": f"{', '.join(distilled)}, alpha {objective.alpha:g}" if distilled else "none",
        "queue": f"{objective.queue_size:,} features per modality",
        "text": f"at most {objective.max_text_tokens} tokens, [CLS] included",
        "trained in": f"{as_text(meta.precision)}, ZeRO stage {meta.zero_stage}, {_count(meta.world_size, 'rank')}",
        "checkpoint": f"{as_text(weights.path.name)}, saved {as_text(meta.created)}",
        "configuration hash": as_code(meta.config_hash),
    }
    return _card(meta.run_name, weights.config, rows, _validation(weights))


def card_of_official(name: str, config: AlbefConfig, sha256: str, notes: list[str]) -> str:
    """The card of a model translated from an official checkpoint; `notes` name what was changed or left out."""
    rows = {
        "translated from": f"{as_code(name)}, a checkpoint in the layout of salesforce/ALBEF",
        "its SHA-256": as_code(sha256),
    }
    return _card(name, config, rows | {"changes": "; ".join(as_text(note, 500) for note in notes) or "none"}, "")


def _card(title: str, config: AlbefConfig, rows: dict[str, str], evaluation: str) -> str:
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
        "## Where it comes from\n\n" + _table(rows),
        "## Shape\n\n" + _table(shape),
        evaluation,
        USE,
        LIMITS,
    ]
    return "\n".join(part for part in parts if part)


def _table(rows: dict[str, str]) -> str:
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows.items())


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _validation(weights: CheckpointWeights) -> str:
    """The validation recalls that the run's metrics.jsonl has for this step, if the checkpoint is in its run folder."""
    values: dict[str, float] = {}
    metrics = weights.path.parent.parent / "metrics.jsonl"
    try:
        entries = [entry for entry in newest_first(metrics) if entry["step"] == weights.meta.step]
    except OSError as error:
        log.warning("the card has no validation results: %s", error)
        entries = []
    for entry in reversed(entries):
        values |= {name: value for name, value in entry.items() if name.startswith("val/") and value is not None}
    rows = {as_text(name.removeprefix("val/")): f"{value:.2f}" for name, value in values.items()}
    if not rows:
        return ""
    what = "Zero-shot retrieval of the student on the run's validation pairs at this step, percent"
    return f"## Validation\n\n{what} (`itc_`: before re-ranking).\n\n{_table(rows)}"
