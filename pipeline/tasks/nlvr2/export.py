"""What a checkpoint of NLVR2 is exported as: an `AlbefNlvr2`."""

from __future__ import annotations

from albef.trained.nlvr2 import AlbefNlvr2
from pipeline.config.annotation_sections import Nlvr2Objective
from pipeline.tasks.finetuning.export import ExportedTask

USE = """\
## Use

```python
from PIL import Image
from albef import AlbefNlvr2

model = AlbefNlvr2.from_pretrained("this folder")
first, second = Image.open("left.jpg"), Image.open("right.jpg")
(true,) = model.compare(first, second, "there are two dogs in each image")  # the probability
```
"""

NLVR2 = ExportedTask(
    name="statements about two images (NLVR2)",
    objective=Nlvr2Objective,
    kind=AlbefNlvr2,
    use=USE,
    validation="Accuracy of the student on the run's validation statements at this step, percent; `majority` is what "
    "always giving the most frequent answer would score.",
)
