"""What a checkpoint of VQA is exported as: an `AlbefVqa`, with the fingerprint of its candidates."""

from __future__ import annotations

from albef.trained.vqa import AlbefVqa
from pipeline.config.annotation_sections import VqaObjective
from pipeline.tasks.finetuning.export import ExportedTask

USE = """\
## Use

```python
from PIL import Image
from albef import AlbefVqa

model = AlbefVqa.from_pretrained("this folder")
photo = Image.open("photo.jpg")
(ranked,) = model.rank(photo, "how many dogs are there?", answers=["1", "2", "none"])  # the best first
(written,) = model.answer(photo, "how many dogs are there?")
```
"""

VQA = ExportedTask(
    name="visual question answering (VQA)",
    objective=VqaObjective,
    kind=AlbefVqa,
    details=lambda objective, values: {
        "first_token_twice": objective.first_token_twice,
        "answers_fingerprint": values.get("answers_fingerprint"),
    },
    use=USE,
    validation="Official accuracy of the student on the run's validation questions at this step, percent; `majority` "
    "is what always giving the most frequent answer would score.",
)
