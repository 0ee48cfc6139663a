"""Image-text retrieval: evaluation, validation during training; fine-tuning in `finetuning`.

annotations  the pairs to evaluate on, from the disk to tensors
evaluation   zero-shot retrieval: similarity, then re-ranking
validation   retrieval during training
"""
