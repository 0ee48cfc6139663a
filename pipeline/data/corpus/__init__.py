"""The corpus in its shards: manifests, stores, and reading single samples.

locations         where samples lie in their shards, in the form that workers get
manifest          the shards and samples to train on
manifest_columns  reads a manifest's columns, or names the row that is wrong
protocol          what the loader needs of any corpus
reader            one sample out of a tar, by byte range
sample_rows       where each sample lies, read from the manifest when needed
shard_cache       streams whole shards, also through pipes, into a bounded folder
shard_copies      that folder: which copies are ours, which is removed next
splits            what samples are recognised by elsewhere: a file's content, images' names
stores            reads manifests and shards by URL, in byte ranges, through fsspec
"""
