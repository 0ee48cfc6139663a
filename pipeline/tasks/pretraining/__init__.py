"""Pretraining.

pictures  samples and pseudo-targets in TensorBoard (the paper's figure 2)
"""
