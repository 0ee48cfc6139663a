"""The corpus as it lies in shards: manifests, stores, and reading single samples.

locations         where samples lie in their shards, as workers are given it
manifest          what there is to train on
manifest_columns  columns of a manifest: their types and values, or which row is wrong
reader            one sample out of a tar, by byte range
sample_rows       where each sample lies, read from the manifest when needed
shard_cache       shards streamed whole, through pipes, into a bounded folder
shard_copies      that folder: which copies are ours, which makes room
stores            manifests and shards by URL, by ranges, through fsspec
"""
