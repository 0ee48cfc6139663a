"""Text assignment, the pretraining of NLVR2: which of two images has a text, or neither?

batcher  samples of shards to a micro-batch
export   what its checkpoints are exported as
maker    how commands get the task, its data, and what would stop a start
sketch   shapes and noise, for planning
task     what one lane's forward is
"""
