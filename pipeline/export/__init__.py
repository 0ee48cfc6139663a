"""Model folders: from a checkpoint, from the official weights, and what lies beside the weights."""
