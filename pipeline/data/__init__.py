"""Shards to micro-batches: manifest, order, reader, augmentation, collate, loader; and pairs to evaluate on.

The order is a pure function of (manifest, seed, epoch); nothing here depends on rank, worker or wall clock.
May import albef and `pipeline.data.seeds`; never `data_prep`, never the rest of `pipeline`.
"""
