"""Training, evaluation and export of ALBEF with DeepSpeed. Start reading at `train.py`.

The only package that imports deepspeed. Imports `albef`; meets `data_prep` through files only (shards, manifest).

checkpoint              publish, find, verify, prune
checkpoint_loading      a checkpoint into the run that resumes
checkpoint_meta         meta.json: what a checkpoint is of, with a checksum of its own
checkpoint_removal      what of a checkpoint may be removed
checkpoint_weights      fp32 weights out of a checkpoint of any ZeRO stage
cli                     the commands, exit codes, how errors end
deepspeed_engine_files  DeepSpeed's files for its own loader, without free pickles
deepspeed_files         weights and moments out of DeepSpeed's files, by parameter
elastic                 a checkpoint of any layout into an engine of another
exit_codes              what the exit codes 69 and 75 mean
saving                  copies to host memory, and threads that write them
train                   READ THIS FIRST: set up, build, fit, one step
"""
