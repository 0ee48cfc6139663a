"""Reads lists of URLs and captions as other tools write them, and writes one normalised list.

annotations     the original's JSON annotation lists; entries of one image become one row
delimited       TSV and CSV, with or without a header
exclusion       excluded domains and images
json_stream     JSON of gigabytes, one element at a time
list_columns    which columns of a list are read
parquet_rows    rows of a parquet file, texts as bytes
plain_pickle    pickles of plain values, nothing of which runs
published_file  opens a text file: plain, compressed or zipped; reads its lines
row_list        accepts captions; the normalised list, one row group a shard
url_list        reads lists as other tools write them
web_url         which URLs can be requested
"""
