"""What the fork server of `tests.support.ranks` imports once for all ranks. Nothing else imports this file."""

import atexit
import gc

import deepspeed.ops
import torch.utils.cpp_extension

import pipeline.tasks.pretraining.maker
import pipeline.train
import tests.support.training_runs
from pipeline.config.resolve import recipe_keys

__all__ = ["deepspeed", "pipeline", "tests", "torch"]

recipe_keys()
deepspeed.ops.__compatible_ops__  # noqa: B018 - probes the machine for a compiler, once
# What is here stays: without this, every rank's collections walk (and so copy) the million objects of these imports.
gc.collect()
gc.freeze()
atexit.register(gc.unfreeze)  # else what stays at the end is reported as leaked
