"""Training, evaluation and export of ALBEF with DeepSpeed. Start reading at `train.py`.

The only package that imports deepspeed. Imports `albef`; shares only files with `data_prep` (shards, manifest).

checkpoint              publishes, finds, verifies and prunes checkpoints
checkpoint_loading      loads a checkpoint into the run that resumes
checkpoint_meta         meta.json: the facts and files of a checkpoint, with a checksum of its own
checkpoint_removal      removes checkpoints, and only files that the pipeline wrote
checkpoint_weights      reads fp32 weights from a checkpoint of any ZeRO stage
cli                     the commands, their exit codes, and the printing of errors
deepspeed_engine_files  reads DeepSpeed's files for its own loader, without running pickles
deepspeed_files         reads weights and moments from DeepSpeed's files, by parameter
elastic                 loads a checkpoint of any layout into an engine of another
exit_codes              the meaning of the exit codes 69 and 75
saving                  copies to host memory, and threads that write them
task                    what a task gives the trainer: the seam
train                   READ THIS FIRST: set up, build, fit, one step
"""
