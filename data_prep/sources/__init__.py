"""The five sources of ALBEF: the facts about each, and a reader of its published files.

`data_prep.sources.list_file` writes what they read; `catalogue` names them. They import only modules that read files.

catalogue            the five sources by name
coco                 COCO in Karpathy's split
conceptual_captions  CC3M and CC12M
list_file            the normalised list of any source, which `list` writes
refer                RefCOCO, RefCOCO+ and RefCOCOg of REFER: phrases with boxes
sbu                  SBU Captioned Photos
source               what every source has: facts with their origin, and a reader
visual_genome        Visual Genome
"""
