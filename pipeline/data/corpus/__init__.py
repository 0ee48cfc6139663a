"""The corpus as it lies in shards: manifests, stores, and reading single samples."""
