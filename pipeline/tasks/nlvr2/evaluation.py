"""A trained model on an annotation file of NLVR2: accuracy, and the answer to every statement, each once."""

from __future__ import annotations

from functools import partial

from albef.inputs.nlvr2_batch import CLASSES
from albef.trained.nlvr2 import AlbefNlvr2
from pipeline.tasks.finetuning.evaluation import evaluate_classifier
from pipeline.tasks.nlvr2.annotations import FORMAT, sentence_of

evaluate_nlvr2 = partial(evaluate_classifier, AlbefNlvr2, FORMAT, text=sentence_of, classes=CLASSES)
"""`evaluate_classifier` of this task."""
