"""What a sample is, said once for the side that writes shards and the side that reads them.

`data_prep` and `pipeline` meet through files only, and `albef` reads the same pictures and captions; what all of them
must agree on lives here. May import the standard library, numpy and Pillow, and nothing of this project.

captions     cleaning captions and questions, as the model was trained
image        one reading of a picture: formats, bounds, orientation, RGB
image_kinds  what bytes are by their first ones: the table of magic numbers
image_roots  images in folders and zips, by the names of other systems
json_text    strangers' text and JSON within bounds: byte order marks, encodings, nesting
plain_file   reading a small file that may have become a folder, a pipe, gigabytes
png_texts    PNG files without the texts and profiles that nobody reads
quote        other people's text in messages: one line, no control characters, cut
record       a usable sample: the fields of its JSON, and which captions can be trained on
shard        the members of a shard, whole or by range, and nothing else
tar          tar headers read strictly: GNU, PAX and V7, with bounds; every type has a name
text_files   text files of other tools: byte order marks, wide encodings by name
zip_images   members of a zip, and why one cannot be unpacked
"""
