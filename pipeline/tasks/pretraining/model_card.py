"""The cards of pretrained models: exported from a run, or imported from an official checkpoint."""

from __future__ import annotations

from albef.config import AlbefConfig
from pipeline.export.model_card import model_card, rows_of_run, validation_of
from pipeline.run.markdown import as_code, as_text
from pipeline.tasks.pretraining.weights import PretrainingWeights

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

VALIDATION = (
    "Zero-shot retrieval of the student on the run's validation pairs at this step, percent "
    "(`itc_`: before re-ranking)."
)


def card_of_checkpoint(weights: PretrainingWeights, kind: str) -> str:
    """The card of a model taken from a run's checkpoint; `kind` is student or teacher."""
    meta, objective = weights.meta, weights.objective
    losses = [name for name in ("itc", "itm", "mlm") if getattr(objective, name)]
    distilled = [name for name in losses if name != "itm" and getattr(objective, f"distill_{name}")]
    origin = rows_of_run(
        meta,
        weights="momentum teacher (matching head and temperature are the student's)" if kind == "teacher" else kind,
        trained={
            "losses": ", ".join(losses),
            "momentum distillation": f"{', '.join(distilled)}, alpha {objective.alpha:g}" if distilled else "none",
            "queue": f"{objective.queue_size:,} features per modality",
            "text": f"at most {objective.max_text_tokens} tokens, [CLS] included",
        },
        checkpoint=weights.path.name,
    )
    validation = validation_of(weights.path, meta.step, VALIDATION)
    return model_card(meta.run_name, weights.config, origin=origin, use=USE, validation=validation)


def card_of_official(name: str, config: AlbefConfig, sha256: str, notes: list[str], *, use: str) -> str:
    """The card of a model translated from an official checkpoint.

    Args:
        notes: what was changed or left out.
        use: the section that shows how the model is used.
    """
    origin = {
        "translated from": f"{as_code(name)}, a checkpoint in the layout of salesforce/ALBEF",
        "its SHA-256": as_code(sha256),
        "changes": "; ".join(as_text(note, 500) for note in notes) or "none",
    }
    return model_card(name, config, origin=origin, use=use)
