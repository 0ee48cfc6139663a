"""What a checkpoint of SNLI-VE is exported as: an `AlbefEntailment`."""

from __future__ import annotations

from albef.trained.entailment import AlbefEntailment
from pipeline.config.annotation_sections import ClassifierObjective
from pipeline.tasks.finetuning.export import ExportedTask

USE = """\
## Use

```python
from PIL import Image
from albef import AlbefEntailment

model = AlbefEntailment.from_pretrained("this folder")
contradicts, neither, entails = model.predict(Image.open("photo.jpg"), "two dogs run on a beach")[0]
```
"""

ENTAILMENT = ExportedTask(
    name="visual entailment (SNLI-VE)",
    objective=ClassifierObjective,
    kind=AlbefEntailment,
    use=USE,
    validation="Accuracy of the student on the run's validation entries at this step, percent; `majority` is what "
    "always giving the most frequent answer would score.",
)
