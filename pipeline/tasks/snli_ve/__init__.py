"""Visual entailment (SNLI-VE): fine-tuning a classifier of an image and a sentence.

annotations  the official lists, entry by entry
batcher      entries to a micro-batch
evaluation   accuracy of a trained model, and its answers
export       what its checkpoints are exported as
maker        how commands get the task, its data, and what would stop a start
sketch       shapes and noise, for planning
task         student, teacher and validation of a run
"""
