"""Training, evaluation and export of ALBEF with DeepSpeed. Start reading at `train.py`.

The only package that imports deepspeed. Imports `albef`; shares only files with `data_prep` (shards, manifest).

cli         the commands, their exit codes, and the printing of errors
exit_codes  the meaning of the exit codes 69 and 75
task        what a task gives the trainer: the seam
task_maker  how a run gets its task
train       READ THIS FIRST: set up, build, fit, one step
"""
