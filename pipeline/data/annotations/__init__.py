"""Samples in annotation files: JSON lists in the official formats, with images in folders or zips.

corpus   the entries of one or several files, as a corpus to train on
entries  reads and checks a file, or reports all of its faults at once
reader   reads the images of an entry
"""
