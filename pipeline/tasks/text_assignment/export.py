"""What a checkpoint of text assignment is exported as: an `AlbefAlignment`, which starts a fine-tuning on NLVR2."""

from __future__ import annotations

from albef.trained.alignment import AlbefAlignment
from pipeline.config.annotation_sections import AlignmentObjective
from pipeline.tasks.finetuning.export import ExportedTask

USE = """\
## Use

    python -m pipeline finetune nlvr2 nlvr2 --init.model FOLDER

```python
from PIL import Image
from albef import AlbefAlignment

model = AlbefAlignment.from_pretrained("this folder")
first, second = Image.open("left.jpg"), Image.open("right.jpg")
of_first, of_second, of_neither = model.assign(first, second, "two dogs run on a beach")[0]
```
"""

ALIGNMENT = ExportedTask(
    name="text assignment, the pretraining of NLVR2",
    objective=AlignmentObjective,
    kind=AlbefAlignment,
    use=USE,
    rows=lambda objective: {},
)
