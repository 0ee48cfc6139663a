"""Samples in annotation files: JSON lists in the official formats, with images in folders, zips or shards.

corpus        the entries of one or several files, as a corpus to train on
entries       reads and checks a file, or reports all of its faults at once
images        where images are: shards, folders, zips
reader        reads the images of an entry
shard_images  finds images in shards by key or URL
"""
