"""Shards and their manifest: encoding images, writing and reading shards.

image_encoding  any image to an upright RGB JPEG, or the reason why not
manifest        manifest.parquet; its contract is docs/shards.md
reader          reads a shard from end to end; finds keys that are used twice
survey          the files in shards/: shards to check, foreign shards, and others
writer          writes a shard, the same bytes on every run
"""
