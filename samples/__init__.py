"""What a sample is, said once for the side that writes shards and the side that reads them.

`data_prep` and `pipeline` meet through files only, and `albef` reads the same pictures and captions; what all of them
must agree on lives here. May import the standard library, numpy and Pillow, and nothing of this project.
"""
