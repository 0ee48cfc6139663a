"""Trained models of the tasks, from and to a folder; `albef` names their classes.

entailment  `AlbefEntailment`: does a sentence follow from an image?
nlvr2       `AlbefNlvr2`: is a statement true of two images?
vqa         `AlbefVqa`: the answer to a question about an image, written or ranked among candidates
"""
