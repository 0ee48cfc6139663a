"""Weakly supervised grounding (RefCOCO+): trained as retrieval on phrases and images, without boxes.

annotations  the lists of phrases, entry by entry
maker        how commands get the task
task         retrieval's, on these lists
"""
