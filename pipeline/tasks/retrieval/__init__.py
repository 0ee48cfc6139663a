"""Image-text retrieval: evaluation, and validation while training.

annotations    pairs to evaluate on
evaluation     zero-shot retrieval: similarity, then re-ranking
retrieval_set  pairs on the disk to what retrieval takes
validation     retrieval during training
"""
