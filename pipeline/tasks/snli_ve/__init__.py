"""Visual entailment (SNLI-VE): fine-tuning a classifier of an image and a sentence.

annotations  the official lists, entry by entry
batcher      entries to a micro-batch
maker        how commands get the task, its data, and what would stop a start
sketch       shapes, noise and bytes, for planning
task         what one lane's forward is, and what follows a step
"""
