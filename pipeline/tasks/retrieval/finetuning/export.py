"""What a checkpoint of retrieval is exported as: an `AlbefRetrieval`, which `Albef.from_pretrained` loads."""

from __future__ import annotations

import dataclasses

from albef.pretrained import AlbefRetrieval
from pipeline.config.annotation_sections import RetrievalObjective
from pipeline.tasks.finetuning.export import ExportedTask

USE = """\
## Use

```python
from PIL import Image
from albef import Albef

model = Albef.from_pretrained("this folder")
_, image_feat = model.encode_image([Image.open("photo.jpg")])
_, text_feat, _ = model.encode_text(["a dog on a beach", "two cups of coffee"])
similarity = image_feat @ text_feat.T                      # contrastive: fast, for ranking many
probability = model.match([Image.open("photo.jpg")], ["a dog on a beach"])  # for the best of them
```
"""

RETRIEVAL = ExportedTask(
    name="image-text retrieval",
    objective=RetrievalObjective,
    kind=AlbefRetrieval,
    use=USE,
    validation="Retrieval of the student among the run's validation images and texts at this step, recall in percent "
    "(`itc_`: before re-ranking).",
    rows=lambda objective: {
        "losses": "itc, itm",
        "momentum distillation": f"itc, alpha {objective.alpha:g}" if objective.distill else "none",
        "queue": f"{objective.queue_size:,} features per modality, with the numbers of their images",
    },
    not_averaged=("itm_head.", "temperature"),
)
GROUNDING = dataclasses.replace(RETRIEVAL, name="weakly supervised grounding")
