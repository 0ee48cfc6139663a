"""The five sources of ALBEF: one file each, with what is known of it and how its published files are read.

`data_prep.sources.list_file` writes what they read; `catalogue` names them. They import only what reads files.
"""
