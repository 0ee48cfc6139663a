"""Image-text retrieval: evaluation, and validation during training.

annotations    the pairs to evaluate on
evaluation     zero-shot retrieval: similarity, then re-ranking
retrieval_set  from pairs on the disk to the tensors that retrieval takes
validation     retrieval during training
"""
