"""Checkpoints: published, found, verified, loaded into any layout, and removed.

With `engine/`, the only room that knows what DeepSpeed keeps where.

deepspeed_engine_files  reads DeepSpeed's files for its own loader, without running pickles
deepspeed_files         reads weights and moments from DeepSpeed's files, by parameter
layout                  publishes, finds, verifies and prunes checkpoints
loading                 loads a checkpoint into the run that resumes
meta                    meta.json: the facts and files of a checkpoint, with its own checksum
removal                 removes checkpoints, and only files that the pipeline wrote
reshard                 loads a checkpoint of any layout into an engine of another
saving                  copies to host memory, and threads that write them
weights                 reads fp32 weights and the task's state from a checkpoint of any ZeRO stage
"""
