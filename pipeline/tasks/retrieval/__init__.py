"""Image-text retrieval: evaluation, and validation during training.

annotations  the pairs to evaluate on, from the disk to tensors
evaluation   zero-shot retrieval: similarity, then re-ranking
validation   retrieval during training
"""
