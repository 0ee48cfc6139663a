"""Shards and their manifest: images to JPEG, written and read to the same bytes."""
