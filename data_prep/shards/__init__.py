"""Shards and their manifest: images to JPEG, written and read to the same bytes.

image_encoding  any image to an upright RGB JPEG, or the reason why not
manifest        manifest.parquet; its contract is docs/shards.md
reader          reads a shard from end to end; keys that stand in more than one shard
survey          what lies in shards/: shards to check, foreign shards, and other files
writer          writes a shard, the same bytes on every run
"""
