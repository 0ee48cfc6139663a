"""Fine-tuning for retrieval, where several texts of one image are positives of each other.

annotations  the official lists, and a pair for each caption
batcher      pairs to a micro-batch
export       a checkpoint to a model folder or the official .pth
maker        how commands get the task, its data, and what would stop a start
sketch       shapes, noise and bytes, for planning
task         what one lane's forward is, and what follows a step
"""
