"""The stages that commands run: download, pack, import, retry, verify.

download      a list of addresses to shards
import_tars   samples of ready-made tars to shards
local_images  where `pack` finds images, and prefixes of other machines
pack          images at hand to the same shards
retry         rounds of rows that failed for reasons that may have passed
tar_samples   reads ready-made tars: what each sample is, and where it lies
verify        opens every shard, checks every sample, writes the manifest
"""
