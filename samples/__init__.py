"""The definition of a sample, shared by the side that writes shards and the side that reads them.

`data_prep` and `pipeline` exchange files only, and `albef` reads the same images and captions; what all of them must
agree on lives here. May import the standard library, numpy and Pillow, and of this project only `base`.

captions     cleans captions and questions, as the model was trained
image        the one way to read an image: formats, limits, orientation, RGB
image_kinds  file types by their first bytes: the table of magic numbers
image_roots  images in folders and zips, by the names that other systems write
json_text    strangers' text and JSON with limits: byte order marks, encodings, nesting
plain_file   reads a small file that may have become a folder, a pipe, gigabytes
png_texts    PNG files without texts and profiles
quote        other people's text in messages: one line, no control characters, cut
record       a usable sample: the fields of its JSON, and which captions can be trained on
shard        the tar members of a shard, read whole or by range
tar          tar headers read strictly: GNU, PAX and V7, with limits; every type has a name
text_files   text files of other tools: byte order marks, wide encodings by name
zip_images   members of a zip, and why one cannot be unpacked
"""
