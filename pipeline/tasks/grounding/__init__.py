"""Weakly supervised grounding (RefCOCO+): trained as retrieval on phrases and images, without boxes; boxes by Grad-CAM.

annotations  the lists of phrases, entry by entry
command      a trained model on an annotation file
evaluation   where maps point, against the true boxes
maker        how commands get the task
proposals    a detector's boxes
task         retrieval's, on these lists
validation   boxes by Grad-CAM during training
"""
