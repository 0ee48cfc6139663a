"""Image-text retrieval: evaluation, and validation while training."""
