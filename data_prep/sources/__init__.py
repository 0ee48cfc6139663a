"""The five sources of ALBEF: one file each, with what is known of it and how its published files are read.

`data_prep.sources.list_file` writes what they read; `catalogue` names them. They import only what reads files.

catalogue            the five sources by name
coco                 COCO in Karpathy's split
conceptual_captions  CC3M and CC12M: their facts, and how their files are read
list_file            the normalised list of any source: what `list` writes
sbu                  SBU Captioned Photos
source               what every source has: facts with their origin, and a reader
visual_genome        Visual Genome
"""
