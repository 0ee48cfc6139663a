"""Trained models of the tasks, from and to a folder; `albef` names their classes.

alignment    `AlbefAlignment`: which of two images has a text, or neither?
entailment   `AlbefEntailment`: does a sentence follow from an image?
image_pairs  pairs of images with a text each, as tensors
nlvr2        `AlbefNlvr2`: is a statement true of two images?
vqa          `AlbefVqa`: the answer to a question about an image, written or ranked among candidates
"""
