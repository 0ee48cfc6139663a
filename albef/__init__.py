"""The ALBEF model: encoders, losses, momentum teacher, feature queue, weight converters.

May import torch, timm and transformers (the tokenizer), and what those bring (numpy, Pillow, safetensors).
Knows nothing of DeepSpeed, tar files, Slurm or command lines: `pipeline` trains it, `data_prep` feeds it.
"""
