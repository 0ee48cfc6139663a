"""Pretraining: the teacher, the queue and the three losses, as the trainer sees them.

collate          samples to a micro-batch
export           `export`: a checkpoint to a model folder or the official .pth
import_official  `import`: an official .pth to a model folder
kernel_cases     what `bench kernels` measures
maker            how commands get the task, and `pretrain`
model_card       the cards of pretrained models
pictures         samples and pseudo-targets in TensorBoard (the paper's figure 2)
readiness        its data, and what would stop a start
replay           how `replay` takes a lane
sketch           shapes, noise and bytes, for planning
task             READ THIS SECOND: what one lane's forward is, and what follows a step
weights          reads a checkpoint: shape, student, teacher and queue
"""
