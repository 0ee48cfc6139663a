"""A trained model on an annotation file of SNLI-VE: accuracy, and the answer to every entry, each once."""

from __future__ import annotations

from functools import partial

from albef.inputs.snli_ve_batch import CLASSES
from albef.trained.entailment import AlbefEntailment
from pipeline.tasks.finetuning.evaluation import evaluate_classifier
from pipeline.tasks.snli_ve.annotations import FORMAT, sentence_of

evaluate_entailment = partial(evaluate_classifier, AlbefEntailment, FORMAT, text=sentence_of, classes=CLASSES)
"""`evaluate_classifier` of this task."""
