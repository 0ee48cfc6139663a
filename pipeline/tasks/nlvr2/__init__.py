"""NLVR2: fine-tuning a classifier of a statement about two images.

annotations  the official lists, entry by entry
batcher      entries to a micro-batch
evaluation   accuracy of a trained model, and its answers
export       what its checkpoints are exported as
maker        how commands get the task, its data, and what would stop a start
sketch       shapes and noise, for planning
task         student, teacher and validation of a run
"""
