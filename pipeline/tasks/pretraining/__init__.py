"""Pretraining: the teacher, the queue and the three losses, as the trainer sees them.

collate   samples to a micro-batch
pictures  samples and pseudo-targets in TensorBoard (the paper's figure 2)
task      READ THIS SECOND: what one lane's forward is, and what follows a step
"""
